//! Registry of the sessions' GET streams: at most one per session, the newest one.
//!
//! A client that opens a second stream has usually lost the first one before the gateway notices. So the first is
//! closed, and the second inherits its upstream streams: no event is lost, and backends need not accept a second
//! stream, which many refuse.
//!
//! Across replicas the newest stream wins too. The store numbers the claims and publishes each; a replica closes a
//! stream whose number is lower than a published one. The highest published number is kept for a stream that has no
//! number of its own yet.

pub(super) mod session_stream;
pub(super) mod upstream_streams;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures::StreamExt as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::record::RecordKey;
use crate::session::stream::upstream_streams::{UpstreamEvent, UpstreamStreams};

/// GET streams that are open in this process. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamRegistry {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    next: u64,
    open: HashMap<RecordKey, OpenSessionStream>,
}

#[derive(Debug)]
struct OpenSessionStream {
    number: u64,
    /// Number of this stream's claim in the store, once it is known.
    claim: Option<u64>,
    /// Highest claim number published by another replica.
    newest_elsewhere: u64,
    closed: CancellationToken,
    changed: Arc<Notify>,
    upstreams: Arc<Mutex<Option<UpstreamStreams>>>,
}

/// One open stream. Dropping it removes it from the registry.
#[derive(Debug)]
pub(super) struct RegisteredStream {
    streams: StreamRegistry,
    key: RecordKey,
    number: u64,
    closed: CancellationToken,
    changed: Arc<Notify>,
    upstreams: Arc<Mutex<Option<UpstreamStreams>>>,
}

impl StreamRegistry {
    /// Registers a stream of `key`, closes the previous one, and returns whether there was one. With `keep`, the new
    /// stream inherits the previous one's upstream streams; otherwise they are closed before this returns.
    pub(super) fn open(&self, key: RecordKey, keep: bool) -> (RegisteredStream, bool) {
        let (closed, changed) = (CancellationToken::new(), Arc::new(Notify::new()));
        let upstreams = Arc::new(Mutex::new(Some(UpstreamStreams::default())));
        let (number, previous) = {
            let mut shared = self.lock();
            let number = shared.next;
            shared.next += 1;
            let open = OpenSessionStream {
                number,
                claim: None,
                newest_elsewhere: 0,
                closed: closed.clone(),
                changed: Arc::clone(&changed),
                upstreams: Arc::clone(&upstreams),
            };
            (number, shared.open.insert(key, open))
        };
        let taken_over = previous.is_some();
        if let Some(inherited) = previous.and_then(OpenSessionStream::end).filter(|_| keep) {
            *lock(&upstreams) = Some(inherited);
        }
        let slot = RegisteredStream {
            streams: self.clone(),
            key,
            number,
            closed,
            changed,
            upstreams,
        };
        (slot, taken_over)
    }

    /// Closes the stream of `key` if its claim is older than claim `number` of another replica.
    pub(super) fn supersede(&self, key: &RecordKey, number: u64) {
        let mut shared = self.lock();
        let Some(open) = shared.open.get_mut(key) else {
            return;
        };
        open.newest_elsewhere = open.newest_elsewhere.max(number);
        let ended = if open.is_superseded() {
            shared.open.remove(key)
        } else {
            None
        };
        drop(shared);
        drop(ended.and_then(OpenSessionStream::end));
    }

    /// Records the claim `number` of the open stream of `key`.
    pub(super) fn set_claim(&self, key: &RecordKey, number: u64) {
        let mut shared = self.lock();
        let Some(open) = shared.open.get_mut(key) else {
            return;
        };
        open.claim = open.claim.max(Some(number));
        let ended = if open.is_superseded() {
            shared.open.remove(key)
        } else {
            None
        };
        drop(shared);
        drop(ended.and_then(OpenSessionStream::end));
    }

    /// Whether a stream of `key` is open here without a claim in the store.
    pub(super) fn is_unclaimed(&self, key: &RecordKey) -> bool {
        self.lock().open.get(key).is_some_and(|open| open.claim.is_none())
    }

    /// Sessions with an open stream in this process.
    pub(super) fn keys(&self) -> Vec<RecordKey> {
        self.lock().open.keys().copied().collect()
    }

    /// Notifies the stream of `key` that the session's record has changed.
    pub(super) fn changed(&self, key: &RecordKey) {
        if let Some(open) = self.lock().open.get(key) {
            open.changed.notify_one();
        }
    }

    /// Whether a stream of `key` is open in this process.
    pub(super) fn is_open(&self, key: &RecordKey) -> bool {
        self.lock().open.contains_key(key)
    }

    /// Calls `act` with the upstream streams of `key`, if its stream is open here.
    pub(super) fn with_upstream_streams(&self, key: &RecordKey, act: impl FnOnce(&mut UpstreamStreams)) {
        let upstreams = self.lock().open.get(key).map(|open| Arc::clone(&open.upstreams));
        if let Some(upstreams) = upstreams
            && let Some(upstreams) = &mut *lock(&upstreams)
        {
            act(upstreams);
        }
    }

    /// Closes the stream of `key`, if it is open here.
    pub(super) fn close(&self, key: &RecordKey) {
        let open = self.lock().open.remove(key);
        drop(open.and_then(OpenSessionStream::end));
    }

    /// Locks the registry. Lock order: never while upstream streams are locked, because polling them may change the
    /// registry.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

impl OpenSessionStream {
    /// Whether another replica has a newer claim.
    fn is_superseded(&self) -> bool {
        self.claim.is_some_and(|claim| claim < self.newest_elsewhere)
    }

    /// Closes the stream and returns its upstream streams.
    fn end(self) -> Option<UpstreamStreams> {
        self.closed.cancel();
        lock(&self.upstreams).take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RegisteredStream {
    /// Completes when the stream must close.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Completes when the session's record has changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Returns the next event of a backend. Cancel safe.
    pub(super) async fn next_event(&self) -> UpstreamEvent {
        std::future::poll_fn(|context| {
            let mut upstreams = lock(&self.upstreams);
            match upstreams
                .as_mut()
                .map(|upstreams| upstreams.events.poll_next_unpin(context))
            {
                Some(Poll::Ready(Some(event))) => Poll::Ready(event),
                // All upstream streams are silent, or a newer stream has inherited them. A record change or the close
                // wakes the task.
                Some(Poll::Ready(None) | Poll::Pending) | None => Poll::Pending,
            }
        })
        .await
    }

    /// Calls `act` with the upstream streams, unless a newer stream has inherited them.
    pub(super) fn with_upstream_streams<T>(&self, act: impl FnOnce(&mut UpstreamStreams) -> T) -> Option<T> {
        let mut upstreams = lock(&self.upstreams);
        upstreams.as_mut().map(act)
    }
}

impl Drop for RegisteredStream {
    fn drop(&mut self) {
        let mut shared = self.streams.lock();
        if shared
            .open
            .get(&self.key)
            .is_some_and(|open| open.number == self.number)
        {
            shared.open.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn newest_stream_wins_and_registry_is_left_empty() {
        // A second stream closes the first, and closed streams leave nothing in the registry.
        let streams = StreamRegistry::default();
        let key = RecordKey([1; 16]);
        let (first, taken_over) = streams.open(key, true);
        assert!(!taken_over);
        let (second, taken_over) = streams.open(key, true);
        assert!(taken_over);
        first.closed().await;
        assert!(first.with_upstream_streams(|_| ()).is_none());
        drop(first);
        streams.changed(&key);
        second.changed().await;
        streams.close(&key);
        second.closed().await;
        drop(second);
        assert!(streams.shared.lock().unwrap().open.is_empty());
    }

    #[tokio::test]
    async fn newest_claim_wins_across_replicas_in_any_order() {
        // Of streams on two replicas the newer claim wins, in whatever order claims and events arrive.
        use futures::FutureExt as _;
        let (streams, key) = (StreamRegistry::default(), RecordKey([1; 16]));
        // The other replica came first.
        let (slot, _) = streams.open(key, true);
        assert!(streams.is_unclaimed(&key));
        streams.supersede(&key, 1);
        streams.set_claim(&key, 2);
        assert!(slot.closed().now_or_never().is_none() && !streams.is_unclaimed(&key));
        // The other replica takes over.
        streams.supersede(&key, 3);
        assert!(slot.closed().now_or_never().is_some());
        // The other replica takes over before this claim has its number.
        let (slot, _) = streams.open(key, true);
        streams.supersede(&key, 5);
        assert!(slot.closed().now_or_never().is_none());
        streams.set_claim(&key, 4);
        assert!(slot.closed().now_or_never().is_some());
        assert!(streams.keys().is_empty());
    }
}
