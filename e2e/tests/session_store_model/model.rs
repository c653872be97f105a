//! The sequential model of the store: what each operation does.

use std::collections::BTreeMap;

use vmcp_gateway::config::SessionLimits;
use vmcp_gateway::session::record::RecordKey;
use vmcp_gateway::session::store::{Incarnation, SessionLimit};

use crate::held::{Held, Principal};
use crate::operation::{Operation, Outcome};
use crate::session::{Session, change};

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) sessions: BTreeMap<RecordKey, Session>,
    /// The number of losses of the data, which counts its incarnations.
    pub(crate) losses: usize,
    /// The name of each incarnation, as the outcomes gave it.
    pub(crate) names: BTreeMap<usize, Incarnation>,
    /// Whether the time is over in which processes may restore lost sessions.
    pub(crate) settled: bool,
}

impl Model {
    pub(crate) fn lose(&mut self) {
        self.losses += 1;
        self.settled = false;
        for session in self.sessions.values_mut() {
            (session.alive, session.expired, session.marked) = (None, None, None);
            session.streams.1 = false;
        }
    }

    /// The limit of `limits` that another session of `principal` would exceed.
    fn limit(&self, principal: Principal, limits: SessionLimits) -> Option<SessionLimit> {
        let living = || self.sessions.values().filter(|session| session.alive.is_some());
        let is_reached = |count: usize, limit: u32| u32::try_from(count).unwrap_or(u32::MAX) >= limit;
        if is_reached(living().count(), limits.server) {
            return Some(SessionLimit::Server);
        }
        let own = living().filter(|session| session.is_counted && session.principal == principal);
        let is_limited = limits.principal < limits.server;
        (is_limited && is_reached(own.count(), limits.principal)).then_some(SessionLimit::Principal)
    }

    /// The model after `operation`, if that can have had `outcome`.
    pub(crate) fn after(&self, operation: &Operation, outcome: &Outcome) -> Option<Self> {
        let mut model = self.clone();
        let expected = model.apply(operation, outcome);
        (expected == *outcome).then_some(model)
    }

    /// The expected outcome of `operation`. Only names and times are taken from the real `outcome`.
    fn apply(&mut self, operation: &Operation, outcome: &Outcome) -> Outcome {
        let alive = |model: &Self, key: &RecordKey| model.sessions.get(key)?.alive.clone();
        match operation {
            Operation::Lose => {
                self.lose();
                Outcome::Done
            }
            Operation::Create(key, principal, limits) => {
                if alive(self, key).is_some() {
                    return Outcome::Taken;
                }
                if let Some(of) = self.limit(*principal, *limits) {
                    return Outcome::Limit(of);
                }
                let Outcome::Created(created) = outcome else {
                    return Outcome::Taken;
                };
                let name = created.life.incarnation;
                let of_another =
                    |(losses, other): (&usize, &Incarnation)| (*losses == self.losses) != (*other == name);
                if self.names.iter().any(of_another) {
                    return Outcome::Taken;
                }
                self.names.insert(self.losses, name);
                let new = Held {
                    version: created.version,
                    ..Held::new(*principal, created.life)
                };
                let session = Session {
                    principal: *principal,
                    life: created.life,
                    born: self.losses,
                    alive: Some(new.clone()),
                    expired: None,
                    marked: None,
                    streams: (0, true),
                    is_counted: limits.principal < limits.server,
                };
                self.sessions.insert(*key, session);
                Outcome::Created(new)
            }
            Operation::Load(key) => alive(self, key).map_or(Outcome::Gone, Outcome::Found),
            Operation::Touch(keys) => {
                let touched = keys.iter().map(|key| {
                    let session = self.sessions.get_mut(key);
                    session.is_some_and(Session::touch)
                });
                Outcome::Touched(touched.collect())
            }
            Operation::Bind(key, ..) | Operation::Set(key, _) => {
                let Some(held) = self
                    .sessions
                    .get_mut(key)
                    .and_then(|session| session.alive.as_mut())
                else {
                    return Outcome::Gone;
                };
                change(held, operation)
            }
            Operation::Claim => {
                let sessions = self.sessions.iter_mut();
                let claimed = sessions.filter_map(|(key, session)| {
                    let (held, claimed) = session.expired.as_mut()?;
                    let is_new = !std::mem::replace(claimed, true);
                    is_new.then(|| (*key, held.clone()))
                });
                Outcome::Claimed(claimed.collect())
            }
            Operation::Remove(keys) => {
                for key in keys {
                    if let Some(session) = self.sessions.get_mut(key) {
                        session.expired = None;
                    }
                }
                Outcome::Done
            }
            Operation::Expire(key) => {
                if let Some(session) = self.sessions.get_mut(key)
                    && let Some(held) = session.alive.take()
                {
                    session.expired = Some((held, false));
                }
                Outcome::Done
            }
            Operation::OwnStream(key) => match self.sessions.get_mut(key) {
                Some(session) if session.alive.is_some() => session.own_stream(outcome),
                _ => Outcome::Gone,
            },
            Operation::Restore(key, known, missing) => {
                let losses = self.losses;
                match self.sessions.get_mut(key) {
                    Some(session) => session.restore(known, *missing, losses, outcome),
                    None => Outcome::Gone,
                }
            }
            Operation::Terminate(key, _) | Operation::Recover(key, ..) => {
                let (losses, settled) = (self.losses, self.settled);
                match self.sessions.get_mut(key) {
                    Some(session) => session.end_or_return(operation, losses, settled, outcome),
                    None => Outcome::Gone,
                }
            }
        }
    }
}

/// Adds to `ends` the states of `model` after all of `done` in every possible order. An operation without an outcome may or may not have been
/// executed: Redis was killed after it, so only what other operations saw of it matters.
pub(crate) fn orders(model: &Model, done: &[(Operation, Option<Outcome>)], ends: &mut Vec<Model>) {
    if done.iter().all(|(_, outcome)| outcome.is_none()) && !ends.contains(model) {
        ends.push(model.clone());
    }
    for (place, (operation, outcome)) in done.iter().enumerate() {
        let after = match outcome {
            Some(outcome) => model.after(operation, outcome),
            None => {
                let mut after = model.clone();
                after.apply(operation, &Outcome::Done);
                Some(after)
            }
        };
        if let Some(after) = after {
            let others = [&done[..place], &done[place + 1..]].concat();
            orders(&after, &others, ends);
        }
    }
}
