//! A session in the model, and the effect of operations on it.

use vmcp_gateway::session::store::{RestoreReason, SessionLife, SettingChange};

use crate::held::{Held, Principal};
use crate::operation::{Operation, Outcome};

/// The state of a session in the model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Session {
    pub(crate) principal: Principal,
    pub(crate) life: SessionLife,
    /// The incarnation in which it was created.
    pub(crate) born: usize,
    /// The record, if the session is alive.
    pub(crate) alive: Option<Held>,
    /// The record, if it has expired and still exists, and whether a process has claimed it.
    pub(crate) expired: Option<(Held, bool)>,
    /// The tombstone or the recovery marker in the store.
    pub(crate) marked: Option<Marked>,
    /// The largest number that its own stream has got, and whether the next one is known.
    pub(crate) streams: (u64, bool),
    /// Whether it counts as one of its principal's. One that was created where the principal had no limit does so from its first use on.
    pub(crate) is_counted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Marked {
    Terminated,
    BroughtBack,
}

/// The effect of a binding or a setting on a live record.
pub(crate) fn change(held: &mut Held, operation: &Operation) -> Outcome {
    match operation {
        Operation::Bind(_, backend, expected, binding) => {
            let bound = held.bindings.get(backend).map_or(0, |bound| bound.generation);
            if bound != *expected {
                return Outcome::Lost(held.clone());
            }
            held.bindings.insert(backend, (**binding).clone());
            held.version += 1;
            return Outcome::Bound(held.clone());
        }
        Operation::Set(_, SettingChange::LogLevel(level)) => held.level = Some(level.clone()),
        Operation::Set(_, SettingChange::Subscribe { uri, backend }) => {
            held.watched.insert(uri.clone(), backend.clone());
        }
        Operation::Set(_, SettingChange::Unsubscribe { uri }) => {
            held.watched.remove(uri);
        }
        _ => {}
    }
    held.version += 1;
    Outcome::Set(held.clone())
}

/// The version of a restored record: a time, which is larger than every version before.
fn version_of(outcome: &Outcome, before: u64) -> u64 {
    match outcome {
        Outcome::Found(held) if held.version > before => held.version,
        _ => 0,
    }
}

impl Session {
    /// Touches the session, and returns whether it is alive.
    pub(crate) fn touch(&mut self) -> bool {
        self.is_counted |= self.alive.is_some();
        self.alive.is_some()
    }

    pub(crate) fn end_or_return(
        &mut self,
        operation: &Operation,
        losses: usize,
        settled: bool,
        outcome: &Outcome,
    ) -> Outcome {
        let lost = self.alive.is_none() && self.born != losses && self.marked.is_none();
        let has_vanished =
            self.alive.is_none() && self.born == losses && self.marked.is_none() && self.expired.is_none();
        match (operation, self.alive.take()) {
            (Operation::Terminate(..), Some(held)) => {
                self.marked = Some(Marked::Terminated);
                Outcome::Terminated(Some(held))
            }
            (Operation::Terminate(..), None) if lost => {
                self.marked = Some(Marked::Terminated);
                Outcome::Terminated(None)
            }
            (Operation::Terminate(..), None) if has_vanished => {
                self.marked = Some(Marked::Terminated);
                Outcome::Gone
            }
            (Operation::Recover(..), None) if has_vanished => Outcome::Vanished,
            (Operation::Recover(..), Some(held)) => {
                self.alive = Some(held.clone());
                Outcome::Found(held)
            }
            (Operation::Recover(..), None) if lost && !settled && *outcome == Outcome::Wait => Outcome::Wait,
            (Operation::Recover(..), None) if lost => {
                self.marked = Some(Marked::BroughtBack);
                self.streams.1 = false;
                let new = Held {
                    version: version_of(outcome, 1),
                    ..Held::new(self.principal, self.life)
                };
                self.is_counted = true;
                self.alive = Some(new.clone());
                Outcome::Found(new)
            }
            _ => Outcome::Gone,
        }
    }

    pub(crate) fn restore(
        &mut self,
        known: &Held,
        missing: RestoreReason,
        losses: usize,
        outcome: &Outcome,
    ) -> Outcome {
        if let Some(held) = &mut self.alive {
            held.write_what_is_lost(known);
            return Outcome::Found(held.clone());
        }
        if self.marked == Some(Marked::Terminated) {
            return Outcome::Gone;
        }
        let back = match (self.expired.take(), missing) {
            (Some((mut held, _)), _) => {
                held.version += 1;
                held
            }
            (None, RestoreReason::Expired) => return Outcome::Gone,
            (None, RestoreReason::Lost) => {
                self.streams.1 = false;
                if self.born != losses {
                    self.marked = Some(Marked::BroughtBack);
                }
                Held {
                    version: version_of(outcome, known.version),
                    ..known.clone()
                }
            }
        };
        self.is_counted = true;
        self.alive = Some(back.clone());
        Outcome::Found(back)
    }

    /// The number grows by one; behind a loss by more, so that it is larger than any that was given.
    pub(crate) fn own_stream(&mut self, outcome: &Outcome) -> Outcome {
        let (given, exact) = self.streams;
        let number = match outcome {
            Outcome::Owned(number) if !exact && *number > given => *number,
            _ => given + 1,
        };
        self.streams = (number, true);
        Outcome::Owned(number)
    }
}
