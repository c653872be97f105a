//! The requests that are running: no two of a session have one id, no session has too many, and all end when their session does.
//!
//! Client ids go upstream as they are. A backend that has two requests with one id may answer one of them twice and the other never,
//! so that the second is refused. Each process refuses what it sees itself; a client that reuses ids across connections at the same
//! moment breaks the protocol anyway (JSON-RPC 2.0, MCP basic).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::key_map::KeyMap;
use super::record::RecordKey;
use crate::wire::jsonrpc::comparable_id;

/// The requests that are running. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight {
    running: Arc<Mutex<KeyMap<Requests>>>,
}

/// What is running of one session.
#[derive(Debug, Default)]
struct Requests {
    /// A list: there are few, and looking through some hundred short texts costs less than a set that is made for each request.
    ids: Vec<Arc<str>>,
    /// How many look at `ended`.
    held: usize,
    ended: Arc<Ended>,
}

/// Whether the session has ended, and who has to be told when it does.
#[derive(Debug, Default)]
struct Ended {
    has: AtomicBool,
    told: Notify,
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
    id: Option<Arc<str>>,
    key: RecordKey,
    ended: Arc<Ended>,
    in_flight: InFlight,
}

impl InFlight {
    /// Begins the request `id` of the session `key`, which may have `limit` at a time.
    pub(super) fn begin(&self, key: RecordKey, id: &RawValue, limit: usize) -> Result<Running, Busy> {
        let id = comparable_id(id);
        let mut running = self.lock();
        if let Some(requests) = running.get(&key) {
            if requests.ids.iter().any(|running| **running == *id) {
                return Err(Busy::SameId);
            }
            if requests.ids.len() >= limit {
                return Err(Busy::TooMany);
            }
        }
        let requests = running.entry(key).or_default();
        let id: Arc<str> = Arc::from(&*id);
        requests.ids.push(Arc::clone(&id));
        requests.held += 1;
        Ok(Running {
            id: Some(id),
            key,
            ended: Arc::clone(&requests.ended),
            in_flight: self.clone(),
        })
    }

    /// Begins the rest of a request of the session `key` that began elsewhere.
    pub(super) fn go_on(&self, key: RecordKey) -> Running {
        let mut running = self.lock();
        let requests = running.entry(key).or_default();
        requests.held += 1;
        Running {
            id: None,
            key,
            ended: Arc::clone(&requests.ended),
            in_flight: self.clone(),
        }
    }

    /// Ends what is running of the session `key`.
    pub(super) fn end(&self, key: &RecordKey) {
        if let Some(requests) = self.lock().get(key) {
            requests.ended.has.store(true, Ordering::Release);
            requests.ended.told.notify_waiters();
        }
    }

    /// The sessions that have something that runs.
    pub(super) fn keys(&self) -> Vec<RecordKey> {
        self.lock().keys().copied().collect()
    }

    /// Whether nothing is running of the session `key`.
    pub(super) fn is_quiet(&self, key: &RecordKey) -> bool {
        !self.lock().contains_key(key)
    }

    fn lock(&self) -> MutexGuard<'_, KeyMap<Requests>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Ends when the session has ended, here or elsewhere.
    pub fn session_ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let ended = Arc::clone(&self.ended);
        async move {
            // Whoever is told from here on ends the wait; whoever was told before is seen.
            let told = ended.told.notified();
            if !ended.has.load(Ordering::Acquire) {
                told.await;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.in_flight.lock();
        if let Some(requests) = running.get_mut(&self.key) {
            if let Some(id) = &self.id
                && let Some(place) = requests.ids.iter().position(|running| Arc::ptr_eq(running, id))
            {
                requests.ids.swap_remove(place);
            }
            requests.held -= 1;
            if requests.held == 0 {
                running.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn an_id_is_free_again_when_its_request_has_ended() {
        let (in_flight, session, other) = (InFlight::default(), RecordKey([1; 16]), RecordKey([2; 16]));
        let number = RawValue::from_string("1".to_owned()).unwrap();
        let text = RawValue::from_string("\"1\"".to_owned()).unwrap();
        let running = in_flight.begin(session, &number, 9).unwrap();
        assert_eq!(in_flight.begin(session, &number, 9).unwrap_err(), Busy::SameId);
        assert!(in_flight.begin(session, &text, 9).is_ok());
        let held = in_flight.begin(session, &raw(r#""a/b""#), 9).unwrap();
        for same in [r#""a\/b""#, r#""\u0061/b""#] {
            assert_eq!(
                in_flight.begin(session, &raw(same), 9).unwrap_err(),
                Busy::SameId,
                "{same}"
            );
        }
        drop(held);
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
        let running = in_flight.lock();
        assert!(running.is_empty(), "{running:?}");
    }

    #[test]
    fn the_end_of_a_session_ends_what_is_running_of_it_and_nothing_else() {
        let (in_flight, session, other) = (InFlight::default(), RecordKey([1; 16]), RecordKey([2; 16]));
        let one = in_flight.begin(session, &raw("1"), 9).unwrap();
        let rest = in_flight.go_on(session);
        assert!(!in_flight.is_quiet(&session));
        let others = in_flight.begin(other, &raw("1"), 9).unwrap();
        assert!(one.session_ended().now_or_never().is_none());
        in_flight.end(&session);
        assert!(one.session_ended().now_or_never().is_some());
        assert!(rest.session_ended().now_or_never().is_some());
        assert!(others.session_ended().now_or_never().is_none());
        drop((one, rest, others));
        is_empty(&in_flight);
        assert!(in_flight.is_quiet(&session));
    }
}
