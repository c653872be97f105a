//! The sessions' own streams that are open in this process: at most one per session, the newest.
//!
//! A client that opens another has usually lost the first without the gateway knowing it yet. So the first is closed, and what it
//! hears from backends goes on in the second, without a gap and without asking the backends for a second stream, which many refuse.
//!
//! Of the streams of a session in several processes the newest wins, too. The store counts them, and tells every process: who hears of
//! a larger number than that of the stream it has, closes it. While a stream has no number yet, the largest that was heard of is kept
//! for it.

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

/// The streams that are open. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamRegistry {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    next: u64,
    open: HashMap<RecordKey, Open>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    /// The store's number of this stream, once it is known.
    owned: Option<u64>,
    /// The largest number of a stream in another process.
    elsewhere: u64,
    closed: CancellationToken,
    changed: Arc<Notify>,
    ears: Arc<Mutex<Option<UpstreamStreams>>>,
}

/// One open stream. It is off the list when this is dropped.
#[derive(Debug)]
pub(super) struct RegisteredStream {
    streams: StreamRegistry,
    key: RecordKey,
    number: u64,
    closed: CancellationToken,
    changed: Arc<Notify>,
    ears: Arc<Mutex<Option<UpstreamStreams>>>,
}

impl StreamRegistry {
    /// Puts the stream of `key` on the list, closes the one that is there, and says whether there was one. With `keep` the new one
    /// goes on hearing where the other was; otherwise what that heard from backends is closed before this returns.
    pub(super) fn open(&self, key: RecordKey, keep: bool) -> (RegisteredStream, bool) {
        let (closed, changed) = (CancellationToken::new(), Arc::new(Notify::new()));
        let ears = Arc::new(Mutex::new(Some(UpstreamStreams::default())));
        let (number, previous) = {
            let mut shared = self.lock();
            let number = shared.next;
            shared.next += 1;
            let open = Open {
                number,
                owned: None,
                elsewhere: 0,
                closed: closed.clone(),
                changed: Arc::clone(&changed),
                ears: Arc::clone(&ears),
            };
            (number, shared.open.insert(key, open))
        };
        let taken_over = previous.is_some();
        if let Some(inherited) = previous.and_then(Open::end).filter(|_| keep) {
            *lock(&ears) = Some(inherited);
        }
        let slot = RegisteredStream {
            streams: self.clone(),
            key,
            number,
            closed,
            changed,
            ears,
        };
        (slot, taken_over)
    }

    /// Closes the stream of `key`, if it is open here and older than the one with the number `number` in another process.
    pub(super) fn taken(&self, key: &RecordKey, number: u64) {
        let mut shared = self.lock();
        let Some(open) = shared.open.get_mut(key) else {
            return;
        };
        open.elsewhere = open.elsewhere.max(number);
        let ended = if open.is_older() {
            shared.open.remove(key)
        } else {
            None
        };
        drop(shared);
        drop(ended.and_then(Open::end));
    }

    /// The store's number of the stream of `key` that is open here, whichever that is, is at least this.
    pub(super) fn own(&self, key: &RecordKey, number: u64) {
        let mut shared = self.lock();
        let Some(open) = shared.open.get_mut(key) else {
            return;
        };
        open.owned = open.owned.max(Some(number));
        let ended = if open.is_older() {
            shared.open.remove(key)
        } else {
            None
        };
        drop(shared);
        drop(ended.and_then(Open::end));
    }

    /// Whether a stream of `key` is open here of which the store does not know.
    pub(super) fn is_unowned(&self, key: &RecordKey) -> bool {
        self.lock().open.get(key).is_some_and(|open| open.owned.is_none())
    }

    /// The sessions whose streams are open here.
    pub(super) fn keys(&self) -> Vec<RecordKey> {
        self.lock().open.keys().copied().collect()
    }

    /// Tells the stream of `key`, if it is open here, that the session's record has changed.
    pub(super) fn changed(&self, key: &RecordKey) {
        if let Some(open) = self.lock().open.get(key) {
            open.changed.notify_one();
        }
    }

    /// Whether the stream of `key` is open here.
    pub(super) fn is_open(&self, key: &RecordKey) -> bool {
        self.lock().open.contains_key(key)
    }

    /// Does something with the ears of the stream of `key`, if it is open here.
    pub(super) fn with_listeners(&self, key: &RecordKey, act: impl FnOnce(&mut UpstreamStreams)) {
        let ears = self.lock().open.get(key).map(|open| Arc::clone(&open.ears));
        if let Some(ears) = ears
            && let Some(ears) = &mut *lock(&ears)
        {
            act(ears);
        }
    }

    /// Ends the stream of `key`, if it is open here.
    pub(super) fn close(&self, key: &RecordKey) {
        let open = self.lock().open.remove(key);
        drop(open.and_then(Open::end));
    }

    /// The list. Never held while ears are: what is heard may change the list.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

impl Open {
    /// Whether another process has a newer one.
    fn is_older(&self) -> bool {
        self.owned.is_some_and(|owned| owned < self.elsewhere)
    }

    /// Ends the stream, and gives what it listened with.
    fn end(self) -> Option<UpstreamStreams> {
        self.closed.cancel();
        lock(&self.ears).take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RegisteredStream {
    /// Ends when the stream has to.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Ends when the session's record has changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What is heard next. May be dropped while it waits: nothing is lost.
    pub(super) async fn heard(&self) -> UpstreamEvent {
        std::future::poll_fn(|context| {
            let mut ears = lock(&self.ears);
            match ears.as_mut().map(|ears| ears.sounds.poll_next_unpin(context)) {
                Some(Poll::Ready(Some(sound))) => Poll::Ready(sound),
                // Nobody speaks, or somebody else listens now; a change of the record or the end wakes the task.
                Some(Poll::Ready(None) | Poll::Pending) | None => Poll::Pending,
            }
        })
        .await
    }

    /// Does something with the ears, unless another stream has them already.
    pub(super) fn with_ears<T>(&self, act: impl FnOnce(&mut UpstreamStreams) -> T) -> Option<T> {
        let mut ears = lock(&self.ears);
        ears.as_mut().map(act)
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
    async fn the_newest_wins_and_nothing_is_kept_afterwards() {
        let streams = StreamRegistry::default();
        let key = RecordKey([1; 16]);
        let (first, taken_over) = streams.open(key, true);
        assert!(!taken_over);
        let (second, taken_over) = streams.open(key, true);
        assert!(taken_over);
        first.closed().await;
        assert!(first.with_ears(|_| ()).is_none());
        drop(first);
        streams.changed(&key);
        second.changed().await;
        streams.close(&key);
        second.closed().await;
        drop(second);
        assert!(streams.shared.lock().unwrap().open.is_empty());
    }

    #[tokio::test]
    async fn of_streams_in_two_processes_the_newer_wins_whatever_is_heard_first() {
        use futures::FutureExt as _;
        let (streams, key) = (StreamRegistry::default(), RecordKey([1; 16]));
        // The other process was first.
        let (slot, _) = streams.open(key, true);
        assert!(streams.is_unowned(&key));
        streams.taken(&key, 1);
        streams.own(&key, 2);
        assert!(slot.closed().now_or_never().is_none() && !streams.is_unowned(&key));
        // It takes over.
        streams.taken(&key, 3);
        assert!(slot.closed().now_or_never().is_some());
        // It takes over while this one does not know its number yet.
        let (slot, _) = streams.open(key, true);
        streams.taken(&key, 5);
        assert!(slot.closed().now_or_never().is_none());
        streams.own(&key, 4);
        assert!(slot.closed().now_or_never().is_some());
        assert!(streams.keys().is_empty());
    }
}
