//! The requests that are running, so that no two of a session have one id, and no session has too many.
//!
//! Client ids go upstream as they are. A backend that has two requests with one id may answer one of them twice and the other never,
//! so that the second is refused. Each process refuses what it sees itself; a client that reuses ids across connections at the same
//! moment breaks the protocol anyway (JSON-RPC 2.0, MCP basic).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::value::RawValue;

use super::record::RecordKey;

type Key = (RecordKey, Box<str>);

/// The requests that are running. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    running: HashSet<Key>,
    /// How many of them each session has.
    counts: HashMap<RecordKey, usize>,
}

/// Why a request cannot begin now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// One with the same id is running.
    SameId,
    /// As many as may run at a time are running.
    TooMany,
}

/// A request that is running; dropping it ends it.
#[derive(Debug)]
pub struct Running {
    key: Key,
    in_flight: InFlight,
}

impl InFlight {
    /// Begins the request `id` of the session `session`, which may have `limit` at a time.
    pub(super) fn begin(&self, session: RecordKey, id: &RawValue, limit: usize) -> Result<Running, Busy> {
        let key = (session, Box::from(id.get()));
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.running.contains(&key) {
            return Err(Busy::SameId);
        }
        let count = shared.counts.entry(session).or_default();
        if *count >= limit {
            return Err(Busy::TooMany);
        }
        *count += 1;
        shared.running.insert(key.clone());
        Ok(Running {
            key,
            in_flight: self.clone(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut shared = self
            .in_flight
            .shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shared.running.remove(&self.key);
        let session = self.key.0;
        if let Some(count) = shared.counts.get_mut(&session) {
            *count -= 1;
            if *count == 0 {
                shared.counts.remove(&session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_free_again_when_its_request_has_ended() {
        let (in_flight, session, other) = (InFlight::default(), RecordKey([1; 16]), RecordKey([2; 16]));
        let number = RawValue::from_string("1".to_owned()).unwrap();
        let text = RawValue::from_string("\"1\"".to_owned()).unwrap();
        let running = in_flight.begin(session, &number, 9).unwrap();
        assert_eq!(in_flight.begin(session, &number, 9).unwrap_err(), Busy::SameId);
        assert!(in_flight.begin(session, &text, 9).is_ok());
        assert!(in_flight.begin(other, &number, 9).is_ok());
        drop(running);
        assert!(in_flight.begin(session, &number, 9).is_ok());
        is_empty(&in_flight);
    }

    #[test]
    fn a_session_has_so_many_requests_and_others_do_not_suffer_for_it() {
        let (in_flight, session, other) = (InFlight::default(), RecordKey([1; 16]), RecordKey([2; 16]));
        let id = |id: u8| RawValue::from_string(id.to_string()).unwrap();
        let running = [1, 2].map(|number| in_flight.begin(session, &id(number), 2).unwrap());
        assert_eq!(in_flight.begin(session, &id(3), 2).unwrap_err(), Busy::TooMany);
        // A request that is repeated is told that it is running, which is more than that there are many.
        assert_eq!(in_flight.begin(session, &id(1), 2).unwrap_err(), Busy::SameId);
        assert!(in_flight.begin(other, &id(3), 2).is_ok());
        drop(running);
        assert!(in_flight.begin(session, &id(3), 2).is_ok());
        is_empty(&in_flight);
    }

    fn is_empty(in_flight: &InFlight) {
        let shared = in_flight.shared.lock().unwrap();
        assert!(
            shared.running.is_empty() && shared.counts.is_empty(),
            "{shared:?}"
        );
    }
}
