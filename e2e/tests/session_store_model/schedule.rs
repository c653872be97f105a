//! Turns the steps of a round into operations.

use vmcp_gateway::backend::UpstreamSession;
use vmcp_gateway::config::SessionLimits;
use vmcp_gateway::mcp::revision::Revision;
use vmcp_gateway::session::record::{Binding, RecordKey};
use vmcp_gateway::session::store::{RestoreReason, SettingChange};

use crate::model::Model;
use crate::operation::Operation;
use crate::runner::Runner;
use crate::step::{Round, Step};
use crate::{BACKENDS, PRINCIPAL_LIMIT, PRINCIPALS, RESOURCES, SERVER_LIMIT};

impl Runner {
    /// The operations of a round, from the state before it.
    pub(crate) fn operations(&mut self, round: &Round) -> Vec<(usize, Operation)> {
        let (model, before) = (self.models[0].clone(), self.keys);
        for (place, key) in self.keys.iter_mut().enumerate() {
            let creates = |(_, step): &(usize, Step)| matches!(step, Step::Create(at, ..) if *at == place);
            let ends = |(_, step): &(usize, Step)| match step {
                Step::Terminate(at) | Step::Expire(at) => *at == place,
                step => matches!(step, Step::Lose),
            };
            let session = model.sessions.get(key);
            let is_alive = session.is_some_and(|session| session.alive.is_some());
            // Keys are random and never reused, but two clients may create the same new one at once.
            if round.steps.iter().any(creates) && (!is_alive || round.steps.iter().any(ends)) {
                *key = RecordKey::random();
            }
        }
        let killed = round.killed.is_some();
        let mut operations = Vec::new();
        for (client, step) in &round.steps {
            // No process learns of a session that is created after a kill, so its key is unknown.
            let now = if killed { before } else { self.keys };
            let life = |place: &usize| model.sessions.get(&before[*place]).map(|session| session.life);
            let operation = match step {
                Step::Create(place, ..) if killed => {
                    self.keys[*place] = RecordKey::random();
                    Some(Operation::Create(
                        self.keys[*place],
                        PRINCIPALS[*place],
                        limits(step),
                    ))
                }
                Step::Create(place, ..) => {
                    Some(Operation::Create(now[*place], PRINCIPALS[*place], limits(step)))
                }
                Step::Restore(place, lost) => {
                    let missing = if *lost {
                        RestoreReason::Lost
                    } else {
                        RestoreReason::Expired
                    };
                    let key = before[*place];
                    let known = self.remembered.get(&key).cloned();
                    known.map(|known| Operation::Restore(key, Box::new(known), missing))
                }
                Step::OwnStream(place) => Some(Operation::OwnStream(now[*place])),
                Step::Claim => Some(Operation::Claim),
                Step::Remove(places) => Some(Operation::Remove(
                    places.iter().map(|place| now[*place]).collect(),
                )),
                Step::Expire(place) => Some(Operation::Expire(now[*place])),
                Step::Load(place) => Some(Operation::Load(now[*place])),
                Step::Bind(place, backend, right) => {
                    Some(self.bind(&model, now[*place], BACKENDS[*backend], *right))
                }
                Step::LogLevel(place, _) | Step::Watch(place, ..) | Step::Unwatch(place, _) => {
                    Some(Operation::Set(now[*place], setting(step)))
                }
                Step::Touch(places) => {
                    Some(Operation::Touch(places.iter().map(|place| now[*place]).collect()))
                }
                Step::Terminate(place) => life(place).map(|life| Operation::Terminate(before[*place], life)),
                Step::Recover(place) => {
                    let principal = PRINCIPALS[*place];
                    life(place).map(|life| Operation::Recover(before[*place], life, principal))
                }
                Step::Lose => Some(Operation::Lose),
            };
            operations.extend(operation.map(|operation| (*client, operation)));
        }
        operations
    }

    fn bind(&mut self, model: &Model, key: RecordKey, backend: &'static str, right: bool) -> Operation {
        let held = model
            .sessions
            .get(&key)
            .and_then(|session| session.alive.as_ref());
        let bound = held.and_then(|held| held.bindings.get(backend));
        let bound = bound.map_or(0, |binding| binding.generation);
        let expected = if right { bound } else { bound + 1 };
        self.bound += 1;
        let binding = Binding {
            origin: "origin".to_owned(),
            session: UpstreamSession {
                id: http::HeaderValue::from_str(&self.bound.to_string()).ok(),
                revision: Revision::V2025_03_26,
                address: None,
                cookies: vmcp_gateway::backend::Cookies::default(),
            },
            generation: expected + 1,
        };
        Operation::Bind(key, backend, expected, Box::new(binding))
    }
}

fn limits(step: &Step) -> SessionLimits {
    let limit = |is_limited, limit| if is_limited { limit } else { u32::MAX };
    let (of_server, of_principal) = match step {
        Step::Create(_, server, principal) => (*server, *principal),
        _ => (false, false),
    };
    SessionLimits {
        server: limit(of_server, SERVER_LIMIT),
        principal: limit(of_principal, PRINCIPAL_LIMIT),
    }
}

fn setting(step: &Step) -> SettingChange {
    match step {
        Step::Watch(_, resource, backend) => SettingChange::Subscribe {
            uri: RESOURCES[*resource].to_owned(),
            backend: BACKENDS[*backend].to_owned(),
        },
        Step::Unwatch(_, resource) => SettingChange::Unsubscribe {
            uri: RESOURCES[*resource].to_owned(),
        },
        Step::LogLevel(_, true) => SettingChange::LogLevel("error".to_owned()),
        _ => SettingChange::LogLevel("debug".to_owned()),
    }
}
