//! The requests that are running: no session has too many, and all end when their session does.
//!
//! Client ids go upstream as they are, unless another request of the session is running under the same id, as those of clients are that
//! send every request with the id 1. A backend that has two requests with one id may answer one of them twice and the other never, so
//! that the later one gets an id of the gateway's for its way upstream. The same holds for a while after a call was given up that its backend
//! may still run. Each process sees its own requests only.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::record::RecordKey;
use crate::mcp::jsonrpc::comparable_id;
use crate::runtime::random;
use crate::session::abandoned_calls::AbandonedCalls;
use crate::session::cache::key_map::KeyMap;

/// The requests that are running. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlightRequests {
    running: Arc<Mutex<KeyMap<Requests>>>,
    abandoned: AbandonedCalls,
}

/// What is running of one session.
#[derive(Debug, Default)]
struct Requests {
    /// A list: there are few, and looking through some hundred short texts costs less than a set that is made for each request.
    ids: Vec<Arc<Ids>>,
    /// The places of calls behind which clients that came back go on, at most one stream behind each.
    resumed: Vec<(Arc<str>, CancellationToken)>,
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

/// What a request is called by.
#[derive(Debug)]
struct Ids {
    /// The client's id, in the one spelling in which ids are compared.
    client: Box<str>,
    /// The id under which it goes upstream, where it is another.
    upstream: Option<Box<RawValue>>,
    /// The backend whose session all clients share, and the id under which the request goes there, if it does.
    shared: OnceLock<(Box<str>, Box<RawValue>)>,
    /// The deadline of a call that was sent and has no answer.
    unanswered: Mutex<Option<Instant>>,
}

/// Says of a running request how far it is. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Ids>);

impl Progress {
    /// It is about to be sent, and has until `deadline`.
    pub fn sent(&self, deadline: Instant) {
        self.set(Some(deadline));
    }

    /// It goes to `backend`, whose session all clients share, under the id `id`.
    pub fn goes_as(&self, backend: &str, id: &RawValue) {
        // A request goes to one backend.
        drop(self.0.shared.set((backend.into(), id.to_owned())));
    }

    /// Its backend is done with it.
    pub fn answered(&self) {
        self.set(None);
    }

    fn set(&self, unanswered: Option<Instant>) {
        *self.0.unanswered.lock().unwrap_or_else(PoisonError::into_inner) = unanswered;
    }
}

impl Ids {
    /// Whether the id under which it goes upstream is the gateway's, and is not used again.
    fn is_renamed(&self) -> bool {
        self.upstream.is_some() || self.shared.get().is_some()
    }

    fn unanswered(&self) -> Option<Instant> {
        *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session has as many requests running as it may at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRequests;

/// What a client's id names, for a cancellation.
#[derive(Debug)]
pub enum Cancelled {
    /// A request that goes by this id upstream, too, here or in another process; or none.
    ByItsOwnId,
    /// The one request here that goes upstream by this other id.
    ByAnotherId(Box<RawValue>),
    /// The one request here that goes to this backend, whose session all clients share, by this id.
    InSharedSession(Box<str>, Box<RawValue>),
    /// Several requests, of which nobody can say which one is meant.
    Ambiguous,
}

/// A request that is running; dropping it ends it.
#[derive(Debug)]
pub struct RunningRequest {
    ids: Option<Arc<Ids>>,
    key: RecordKey,
    ended: Arc<Ended>,
    in_flight: InFlightRequests,
    /// Where it is the rest of a call: says that a newer one has taken its place.
    superseded: Option<CancellationToken>,
}

impl InFlightRequests {
    /// Begins the request `id` of the session `key`, which may have `limit` at a time.
    pub(super) fn begin(
        &self,
        key: RecordKey,
        id: &RawValue,
        limit: usize,
    ) -> Result<RunningRequest, TooManyRequests> {
        let client = comparable_id(id);
        let mut running = self.lock();
        if running
            .get(&key)
            .is_some_and(|requests| requests.ids.len() + requests.resumed.len() >= limit)
        {
            return Err(TooManyRequests);
        }
        let requests = running.entry(key).or_default();
        let is_taken = requests.ids.iter().any(|running| *running.client == *client)
            || self.abandoned.has(&key, &client);
        let ids = Arc::new(Ids {
            upstream: is_taken.then(generated).flatten(),
            client: Box::from(&*client),
            shared: OnceLock::new(),
            unanswered: Mutex::new(None),
        });
        requests.ids.push(Arc::clone(&ids));
        requests.held += 1;
        Ok(RunningRequest {
            ids: Some(ids),
            key,
            ended: Arc::clone(&requests.ended),
            in_flight: self.clone(),
            superseded: None,
        })
    }

    /// Goes on behind `place` of a call of the session `key`, which may have `limit` streams and requests at a time. It supersedes an
    /// earlier one behind the same place, whose client is gone without anybody having noticed.
    pub(super) fn resume(
        &self,
        key: RecordKey,
        place: &str,
        limit: usize,
    ) -> Result<RunningRequest, TooManyRequests> {
        let mut running = self.lock();
        if let Some(requests) = running.get_mut(&key) {
            if let Some(at) = requests.resumed.iter().position(|(other, _)| **other == *place) {
                requests.resumed.swap_remove(at).1.cancel();
            }
            if requests.ids.len() + requests.resumed.len() >= limit {
                return Err(TooManyRequests);
            }
        }
        let requests = running.entry(key).or_default();
        let superseded = CancellationToken::new();
        requests.resumed.push((Arc::from(place), superseded.clone()));
        requests.held += 1;
        Ok(RunningRequest {
            ids: None,
            key,
            ended: Arc::clone(&requests.ended),
            in_flight: self.clone(),
            superseded: Some(superseded),
        })
    }

    /// Begins the rest of a request of the session `key` that began elsewhere.
    pub(super) fn go_on(&self, key: RecordKey) -> RunningRequest {
        let mut running = self.lock();
        let requests = running.entry(key).or_default();
        requests.held += 1;
        RunningRequest {
            ids: None,
            key,
            ended: Arc::clone(&requests.ended),
            in_flight: self.clone(),
            superseded: None,
        }
    }

    /// What of the session `key` a client means that cancels the request `id`.
    pub(super) fn cancelled(&self, key: &RecordKey, id: &RawValue) -> Cancelled {
        let id = comparable_id(id);
        let running = self.lock();
        let all = running.get(key).map_or(&[][..], |requests| &requests.ids);
        let mut same = all.iter().filter(|running| *running.client == *id);
        match (same.next(), same.next()) {
            (_, Some(_)) => Cancelled::Ambiguous,
            (Some(only), None) => match (&only.upstream, only.shared.get()) {
                (_, Some((backend, id))) => Cancelled::InSharedSession(backend.clone(), id.clone()),
                (Some(upstream), None) => Cancelled::ByAnotherId(upstream.clone()),
                (None, None) => Cancelled::ByItsOwnId,
            },
            (None, None) => Cancelled::ByItsOwnId,
        }
    }

    /// Ends what is running of the session `key`.
    pub(super) fn end(&self, key: &RecordKey) {
        if let Some(requests) = self.lock().get(key) {
            requests.ended.has.store(true, Ordering::Release);
            requests.ended.told.notify_waiters();
        }
        self.abandoned.forget(key);
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

/// An id that no request of a client has: a large number, because some servers take no texts, of 31 bits, because some take no larger ones.
fn generated() -> Option<Box<RawValue>> {
    let number = (1 << 30) + (random::u64() & ((1 << 30) - 1));
    RawValue::from_string(number.to_string()).ok()
}

impl RunningRequest {
    /// The id under which the request goes upstream, where it is not the client's own.
    #[must_use]
    pub fn upstream_id(&self) -> Option<&RawValue> {
        self.ids.as_ref()?.upstream.as_deref()
    }

    /// Where to say how far the request is.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        self.ids.clone().map(Progress)
    }

    /// Ends when a newer one has taken its place.
    pub fn superseded(&self) -> impl Future<Output = ()> + Send + use<> {
        let superseded = self.superseded.clone();
        async move {
            match superseded {
                Some(superseded) => superseded.cancelled_owned().await,
                None => std::future::pending().await,
            }
        }
    }

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

impl Drop for RunningRequest {
    fn drop(&mut self) {
        let mut running = self.in_flight.lock();
        if let Some(requests) = running.get_mut(&self.key) {
            if let Some(ids) = &self.ids
                && let Some(place) = requests.ids.iter().position(|running| Arc::ptr_eq(running, ids))
            {
                requests.ids.swap_remove(place);
                // An id of the gateway's own is not used again.
                if !ids.is_renamed()
                    && !requests.ended.has.load(Ordering::Acquire)
                    && let Some(deadline) = ids.unanswered()
                {
                    self.in_flight.abandoned.add(self.key, &ids.client, deadline);
                }
            }
            if let Some(superseded) = self.superseded.take() {
                // Also one that was superseded ends by itself; its place is another's then.
                superseded.cancel();
                requests.resumed.retain(|(_, token)| !token.is_cancelled());
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
    fn request_with_a_taken_id_goes_upstream_under_another() {
        let (in_flight, session, other) = (
            InFlightRequests::default(),
            RecordKey([1; 16]),
            RecordKey([2; 16]),
        );
        let begin = |session, id: &str| in_flight.begin(session, &raw(id), 9).unwrap();
        let is_renamed = |running: &RunningRequest| running.upstream_id().is_some();
        let first = begin(session, "1");
        let (second, third) = (begin(session, "1"), begin(session, "1"));
        assert!(!is_renamed(&first) && is_renamed(&second) && is_renamed(&third));
        assert_ne!(
            second.upstream_id().map(RawValue::get),
            third.upstream_id().map(RawValue::get)
        );
        assert!(!is_renamed(&begin(session, "\"1\"")) && !is_renamed(&begin(other, "1")));
        let held = begin(session, r#""a/b""#);
        for same in [r#""a\/b""#, r#""\u0061/b""#] {
            assert!(is_renamed(&begin(session, same)), "{same}");
        }
        drop((held, first, second, third));
        assert!(!is_renamed(&begin(session, "1")));
        is_empty(&in_flight);
    }

    #[tokio::test]
    async fn id_of_a_call_given_up_before_its_answer_stays_taken() {
        let (in_flight, session) = (InFlightRequests::default(), RecordKey([1; 16]));
        let begin = || in_flight.begin(session, &raw("1"), 9).unwrap();
        let answered = begin();
        answered.progress().unwrap().sent(Instant::now());
        answered.progress().unwrap().answered();
        drop(answered);
        let given_up = begin();
        assert!(given_up.upstream_id().is_none());
        given_up.progress().unwrap().sent(Instant::now());
        drop(given_up);
        assert!(begin().upstream_id().is_some());
        is_empty(&in_flight);
        in_flight.end(&session);
        assert!(begin().upstream_id().is_none());
    }

    #[test]
    fn cancellation_needs_the_id_to_be_alone() {
        let (in_flight, session) = (InFlightRequests::default(), RecordKey([1; 16]));
        let begin = || in_flight.begin(session, &raw("1"), 9).unwrap();
        let cancelled = || in_flight.cancelled(&session, &raw("1"));
        // It may run in another process.
        assert!(matches!(cancelled(), Cancelled::ByItsOwnId));
        let first = begin();
        assert!(matches!(cancelled(), Cancelled::ByItsOwnId));
        let second = begin();
        assert!(matches!(cancelled(), Cancelled::Ambiguous));
        drop(first);
        let Cancelled::ByAnotherId(id) = cancelled() else {
            panic!("it is alone")
        };
        assert_eq!(Some(id.get()), second.upstream_id().map(RawValue::get));
        drop(second);
        is_empty(&in_flight);
    }

    #[test]
    fn request_in_a_shared_session_is_cancelled_there_alone() {
        let (in_flight, session) = (InFlightRequests::default(), RecordKey([1; 16]));
        let running = in_flight.begin(session, &raw("1"), 9).unwrap();
        running.progress().unwrap().goes_as("one", &raw("17"));
        running.progress().unwrap().sent(Instant::now());
        let Cancelled::InSharedSession(backend, id) = in_flight.cancelled(&session, &raw("1")) else {
            panic!("it goes to a backend that all share")
        };
        assert_eq!((&*backend, id.get()), ("one", "17"));
        drop(running);
        // Nobody else has its id upstream.
        assert!(
            in_flight
                .begin(session, &raw("1"), 9)
                .unwrap()
                .upstream_id()
                .is_none()
        );
        is_empty(&in_flight);
    }

    #[test]
    fn a_session_has_so_many_requests_and_others_do_not_suffer_for_it() {
        let (in_flight, session, other) = (
            InFlightRequests::default(),
            RecordKey([1; 16]),
            RecordKey([2; 16]),
        );
        let id = |id: u8| RawValue::from_string(id.to_string()).unwrap();
        let running = [1, 2].map(|number| in_flight.begin(session, &id(number), 2).unwrap());
        for more in [3, 1] {
            let refused = in_flight.begin(session, &id(more), 2).unwrap_err();
            assert_eq!(refused, TooManyRequests);
        }
        assert!(in_flight.begin(other, &id(3), 2).is_ok());
        drop(running);
        assert!(in_flight.begin(session, &id(3), 2).is_ok());
        is_empty(&in_flight);
    }

    #[test]
    fn rest_of_a_call_counts_and_the_newest_takes_the_place_of_others() {
        let (in_flight, session) = (InFlightRequests::default(), RecordKey([1; 16]));
        let call = in_flight.begin(session, &raw("1"), 2).unwrap();
        let first = in_flight.resume(session, "a", 2).unwrap();
        let second = in_flight.resume(session, "a", 2).unwrap();
        assert!(first.superseded().now_or_never().is_some());
        assert!(second.superseded().now_or_never().is_none());
        drop(first);
        assert_eq!(in_flight.resume(session, "b", 2).unwrap_err(), TooManyRequests);
        assert_eq!(
            in_flight.begin(session, &raw("2"), 2).unwrap_err(),
            TooManyRequests
        );
        drop(call);
        let other = in_flight.resume(session, "b", 2).unwrap();
        assert!(second.superseded().now_or_never().is_none());
        drop((second, other));
        is_empty(&in_flight);
    }

    fn is_empty(in_flight: &InFlightRequests) {
        let running = in_flight.lock();
        assert!(running.is_empty(), "{running:?}");
    }

    #[test]
    fn the_end_of_a_session_ends_what_is_running_of_it_and_nothing_else() {
        let (in_flight, session, other) = (
            InFlightRequests::default(),
            RecordKey([1; 16]),
            RecordKey([2; 16]),
        );
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
