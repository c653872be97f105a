//! The requests that are running, so that no two of a session have one id.
//!
//! Client ids go upstream as they are. A backend that has two requests with one id may answer one of them twice and the other never,
//! so that the second is refused. Each process refuses what it sees itself; a client that reuses ids across connections at the same
//! moment breaks the protocol anyway (JSON-RPC 2.0, MCP basic).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::value::RawValue;

use super::record::RecordKey;

type Key = (RecordKey, Box<str>);

/// The requests that are running. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight {
    running: Arc<Mutex<HashSet<Key>>>,
}

/// A request that is running; dropping it ends it.
#[derive(Debug)]
pub struct Running {
    key: Key,
    in_flight: InFlight,
}

impl InFlight {
    /// Begins the request `id` of the session `key`; `None` while one of that id is running.
    pub(super) fn begin(&self, key: RecordKey, id: &RawValue) -> Option<Running> {
        let key = (key, Box::from(id.get()));
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(key.clone()).then(|| Running {
            key,
            in_flight: self.clone(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self
            .in_flight
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        running.remove(&self.key);
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
        let running = in_flight.begin(session, &number).unwrap();
        assert!(in_flight.begin(session, &number).is_none());
        assert!(in_flight.begin(session, &text).is_some());
        assert!(in_flight.begin(other, &number).is_some());
        drop(running);
        assert!(in_flight.begin(session, &number).is_some());
        assert!(in_flight.running.lock().unwrap().is_empty());
    }
}
