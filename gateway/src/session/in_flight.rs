//! Running requests of each session: limits their number, maps their ids, and ends them with the session.
//!
//! Client ids go upstream unchanged, unless another request of the session runs under the same id; some clients send
//! every request with id 1. A backend with two requests of one id might answer one twice and the other never, so the
//! second gets an id made by the gateway. The same holds for a while after a call was abandoned, because the backend
//! may still run it. Each process knows its own requests only.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::record::RecordKey;
use crate::mcp::jsonrpc::{comparable_id, is_forwardable_id};
use crate::runtime::random;
use crate::session::abandoned_calls::AbandonedCalls;

/// The running requests of this process. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlightRequests {
    running: Arc<Mutex<HashMap<RecordKey, Requests>>>,
    abandoned: AbandonedCalls,
}

/// The running requests of one session.
#[derive(Debug, Default)]
struct Requests {
    /// A list: there are few, and comparing some hundred short strings is cheaper than building a set.
    ids: Vec<Arc<Ids>>,
    /// Positions from which streams have resumed calls; at most one stream per position.
    resumed: Vec<(Arc<str>, CancellationToken)>,
    /// Number of [`RunningRequest`]s of the session. The entry is removed when there are none.
    handles: usize,
    ended: Arc<Ended>,
}

/// Whether the session has ended, and the tasks to wake when it does.
#[derive(Debug, Default)]
struct Ended {
    is_ended: AtomicBool,
    notify: Notify,
}

/// Ids and deadline of one request.
#[derive(Debug)]
struct Ids {
    /// The client's id, in canonical form.
    client: Box<str>,
    /// The id sent upstream, if it differs.
    upstream: Option<Box<RawValue>>,
    /// The backend with a shared session and the request's id there, if it goes to one.
    shared: OnceLock<(Box<str>, Box<RawValue>)>,
    /// Deadline of a call that was sent and is not answered.
    unanswered: Mutex<Option<Instant>>,
}

/// Records the progress of a running request. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Ids>);

impl Progress {
    /// The call is about to be sent and has time until `deadline`.
    pub fn sent(&self, deadline: Instant) {
        self.set(Some(deadline));
    }

    /// The request goes to `backend`, whose session all clients share, under `id`.
    pub fn set_shared_session_id(&self, backend: &str, id: &RawValue) {
        // A request goes to one backend only.
        drop(self.0.shared.set((backend.into(), id.to_owned())));
    }

    /// Records that the backend has answered, so that the client's id is free again.
    pub fn answered(&self) {
        self.set(None);
    }

    fn set(&self, unanswered: Option<Instant>) {
        *self.0.unanswered.lock().unwrap_or_else(PoisonError::into_inner) = unanswered;
    }
}

impl Ids {
    /// Whether the gateway made the upstream id. Such an id is never used twice.
    fn is_renamed(&self) -> bool {
        self.upstream.is_some() || self.shared.get().is_some()
    }

    fn unanswered(&self) -> Option<Instant> {
        *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of the session that a request belongs to. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct SessionEnd(Arc<Ended>);

impl SessionEnd {
    /// Completes when the session has ended, here or on another replica.
    pub async fn reached(&self) {
        // Register first, then check: a termination in between is seen either way.
        let notified = self.0.notify.notified();
        if !self.0.is_ended.load(Ordering::Acquire) {
            notified.await;
        }
    }
}

/// The session has as many running requests as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRequests;

/// The request that a client's cancellation refers to.
#[derive(Debug)]
pub enum CancellationTarget {
    /// A request with the same id upstream, in this process or another one, or no request at all.
    SameId,
    /// The only matching request, with its own upstream id.
    RenamedId(Box<RawValue>),
    /// The only matching request, with its id at the backend whose session all clients share.
    SharedSession(Box<str>, Box<RawValue>),
    /// Several requests match, so the target is ambiguous.
    Ambiguous,
}

/// A running request. Dropping it ends it.
#[derive(Debug)]
pub struct RunningRequest {
    ids: Option<Arc<Ids>>,
    key: RecordKey,
    ended: Arc<Ended>,
    in_flight: InFlightRequests,
    /// For a resumed call: notified when a newer stream supersedes this one.
    superseded: Option<CancellationToken>,
}

impl InFlightRequests {
    /// Registers the request `id` of the session `key`, which may have `limit` at a time.
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
            upstream: (is_taken || !is_forwardable_id(id)).then(generate_id).flatten(),
            client: Box::from(&*client),
            shared: OnceLock::new(),
            unanswered: Mutex::new(None),
        });
        requests.ids.push(Arc::clone(&ids));
        requests.handles += 1;
        Ok(RunningRequest {
            ids: Some(ids),
            key,
            ended: Arc::clone(&requests.ended),
            in_flight: self.clone(),
            superseded: None,
        })
    }

    /// Resumes a call of the session `key` after `position`, within `limit` running requests and streams. It supersedes
    /// an earlier stream from the same position, whose client has gone away unnoticed.
    pub(super) fn resume(
        &self,
        key: RecordKey,
        position: &str,
        limit: usize,
    ) -> Result<RunningRequest, TooManyRequests> {
        let mut running = self.lock();
        if let Some(requests) = running.get_mut(&key) {
            if let Some(at) = requests
                .resumed
                .iter()
                .position(|(other, _)| **other == *position)
            {
                requests.resumed.swap_remove(at).1.cancel();
            }
            if requests.ids.len() + requests.resumed.len() >= limit {
                return Err(TooManyRequests);
            }
        }
        let requests = running.entry(key).or_default();
        let superseded = CancellationToken::new();
        requests.resumed.push((Arc::from(position), superseded.clone()));
        requests.handles += 1;
        Ok(RunningRequest {
            ids: None,
            key,
            ended: Arc::clone(&requests.ended),
            in_flight: self.clone(),
            superseded: Some(superseded),
        })
    }

    /// Resolves the target of a cancellation of the request `id` in the session `key`.
    pub(super) fn resolve_cancellation(&self, key: &RecordKey, id: &RawValue) -> CancellationTarget {
        let id = comparable_id(id);
        let running = self.lock();
        let all = running.get(key).map_or(&[][..], |requests| &requests.ids);
        let mut same = all.iter().filter(|running| *running.client == *id);
        match (same.next(), same.next()) {
            (_, Some(_)) => CancellationTarget::Ambiguous,
            (Some(only), None) => match (&only.upstream, only.shared.get()) {
                (_, Some((backend, id))) => CancellationTarget::SharedSession(backend.clone(), id.clone()),
                (Some(upstream), None) => CancellationTarget::RenamedId(upstream.clone()),
                (None, None) => CancellationTarget::SameId,
            },
            (None, None) => CancellationTarget::SameId,
        }
    }

    /// Ends all running requests of the session `key`.
    pub(super) fn end(&self, key: &RecordKey) {
        if let Some(requests) = self.lock().get(key) {
            requests.ended.is_ended.store(true, Ordering::Release);
            requests.ended.notify.notify_waiters();
        }
        self.abandoned.forget(key);
    }

    /// The sessions that have a running request in this process.
    pub(super) fn keys(&self) -> Vec<RecordKey> {
        self.lock().keys().copied().collect()
    }

    /// Whether the session `key` has no running request.
    pub(super) fn is_quiet(&self, key: &RecordKey) -> bool {
        !self.lock().contains_key(key)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RecordKey, Requests>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes an id that no client uses: a number, because some servers accept no strings, of 31 bits, because some accept
/// no larger numbers.
fn generate_id() -> Option<Box<RawValue>> {
    let number = (1 << 30) + (random::u64() & ((1 << 30) - 1));
    RawValue::from_string(number.to_string()).ok()
}

impl RunningRequest {
    /// The id sent upstream, if it is not the client's own.
    #[must_use]
    pub fn upstream_id(&self) -> Option<&RawValue> {
        self.ids.as_ref()?.upstream.as_deref()
    }

    /// Handle that records the request's progress.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        self.ids.clone().map(Progress)
    }

    /// Completes when a newer stream supersedes this one.
    pub fn superseded(&self) -> impl Future<Output = ()> + Send + use<> {
        let superseded = self.superseded.clone();
        async move {
            match superseded {
                Some(superseded) => superseded.cancelled_owned().await,
                None => std::future::pending().await,
            }
        }
    }

    /// The end of the request's session.
    #[must_use]
    pub fn session_end(&self) -> SessionEnd {
        SessionEnd(Arc::clone(&self.ended))
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        let mut running = self.in_flight.lock();
        if let Some(requests) = running.get_mut(&self.key) {
            if let Some(ids) = &self.ids
                && let Some(position) = requests.ids.iter().position(|running| Arc::ptr_eq(running, ids))
            {
                requests.ids.swap_remove(position);
                // An id made by the gateway is not used again, so it needs no reservation.
                if !ids.is_renamed()
                    && !requests.ended.is_ended.load(Ordering::Acquire)
                    && let Some(deadline) = ids.unanswered()
                {
                    self.in_flight.abandoned.add(self.key, &ids.client, deadline);
                }
            }
            if let Some(superseded) = self.superseded.take() {
                // A superseded stream does not remove its successor's position.
                superseded.cancel();
                requests.resumed.retain(|(_, token)| !token.is_cancelled());
            }
            requests.handles -= 1;
            if requests.handles == 0 {
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
        let handles = begin(session, r#""a/b""#);
        for same in [r#""a\/b""#, r#""\u0061/b""#] {
            assert!(is_renamed(&begin(session, same)), "{same}");
        }
        drop((handles, first, second, third));
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
        let cancelled = || in_flight.resolve_cancellation(&session, &raw("1"));
        // The request may run on another replica.
        assert!(matches!(cancelled(), CancellationTarget::SameId));
        let first = begin();
        assert!(matches!(cancelled(), CancellationTarget::SameId));
        let second = begin();
        assert!(matches!(cancelled(), CancellationTarget::Ambiguous));
        drop(first);
        let CancellationTarget::RenamedId(id) = cancelled() else {
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
        running
            .progress()
            .unwrap()
            .set_shared_session_id("one", &raw("17"));
        running.progress().unwrap().sent(Instant::now());
        let CancellationTarget::SharedSession(backend, id) =
            in_flight.resolve_cancellation(&session, &raw("1"))
        else {
            panic!("it goes to a backend that all share")
        };
        assert_eq!((&*backend, id.get()), ("one", "17"));
        drop(running);
        // No other request has its id upstream.
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
    fn request_limit_is_per_session() {
        // A session at its limit of running requests does not affect other sessions.
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
    fn newest_resumed_stream_supersedes_earlier_ones() {
        // A resumed call counts towards the limit, and the newest stream from a position ends earlier ones.
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
    fn session_end_ends_its_requests_only() {
        // The end of a session ends its running requests and those of no other session.
        let (in_flight, session, other) = (
            InFlightRequests::default(),
            RecordKey([1; 16]),
            RecordKey([2; 16]),
        );
        let one = in_flight.begin(session, &raw("1"), 9).unwrap();
        let rest = in_flight.resume(session, "a", 9).unwrap();
        assert!(!in_flight.is_quiet(&session));
        let others = in_flight.begin(other, &raw("1"), 9).unwrap();
        let has_ended = |running: &RunningRequest| running.session_end().reached().now_or_never().is_some();
        assert!(!has_ended(&one));
        in_flight.end(&session);
        assert!(has_ended(&one) && has_ended(&rest) && !has_ended(&others));
        drop((one, rest, others));
        is_empty(&in_flight);
        assert!(in_flight.is_quiet(&session));
    }
}
