//! How much the endpoint takes on at a time: requests that run, the bytes of their bodies, and sessions that are opened.
//!
//! A request has a place from before its body is read until its answer has gone out. When all places are taken, the next one is refused
//! without its body, which is what makes refusing cheap. A small body is read all the same, as long as there are not as many of those
//! too: it may be a cancellation, or the client's answer to a backend's question, and those free places. What turns out to be a request
//! is refused then, with its id.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The largest body that is read when all places are taken.
pub(super) const SMALL_BODY_BYTES: u64 = 64 * 1024;

/// Places for requests. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    taken: AtomicUsize,
    /// How many small bodies are read beyond the places.
    beyond: AtomicUsize,
}

/// One place; dropping it frees it.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    beyond: bool,
}

impl Places {
    /// A place among `limit`, or, where the body is small, one beyond them.
    pub(super) fn take(&self, limit: usize, is_small: bool) -> Option<Place> {
        let counters = [(&self.shared.taken, false), (&self.shared.beyond, true)];
        let tried = if is_small { &counters[..] } else { &counters[..1] };
        let below = |count: usize| (count < limit).then_some(count + 1);
        let taken = tried.iter().find(|(counter, _)| {
            counter
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
                .is_ok()
        });
        taken.map(|(_, beyond)| Place {
            places: self.clone(),
            beyond: *beyond,
        })
    }
}

impl Place {
    /// Whether a request may run in it. Other messages may in any.
    pub(super) fn is_for_requests(&self) -> bool {
        !self.beyond
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let shared = &self.places.shared;
        let counter = if self.beyond {
            &shared.beyond
        } else {
            &shared.taken
        };
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The bytes of bodies that are kept at a time. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Bodies {
    bytes: Arc<AtomicUsize>,
}

/// What is kept of one body; dropping it says that it is kept no longer.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    bodies: &'a Bodies,
    bytes: usize,
    limit: usize,
}

impl Bodies {
    /// A body of which nothing is kept yet; all together may have `limit` bytes.
    pub(super) fn begin(&self, limit: usize) -> Kept<'_> {
        Kept {
            bodies: self,
            bytes: 0,
            limit,
        }
    }
}

impl Kept<'_> {
    /// Keeps so many bytes more, if there is room.
    pub(super) fn more(&mut self, bytes: usize) -> bool {
        let before = self.bodies.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        before.saturating_add(bytes) <= self.limit
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.bodies.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// So many in a second, of which all may come at once. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Rate {
    /// When everything that has come so far would have come if it had come evenly.
    even: Arc<Mutex<Option<Instant>>>,
}

impl Rate {
    /// Counts one more, unless there were too many of late.
    pub(super) fn allows(&self, per_second: u32) -> bool {
        let step = Duration::from_secs(1) / per_second.max(1);
        let now = Instant::now();
        let mut even = self.even.lock().unwrap_or_else(PoisonError::into_inner);
        let next = even.map_or(now, |even| even.max(now)) + step;
        let allowed = next.duration_since(now) <= Duration::from_secs(1);
        if allowed {
            *even = Some(next);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_places_only_small_bodies_are_read_and_not_for_requests() {
        let places = Places::default();
        let first = places.take(1, false).unwrap();
        assert!(first.is_for_requests());
        assert!(places.take(1, false).is_none());
        let beyond = places.take(1, true).unwrap();
        assert!(!beyond.is_for_requests());
        assert!(places.take(1, true).is_none());
        // A limit that is raised holds at once.
        assert!(places.take(2, false).unwrap().is_for_requests());
        drop(first);
        assert!(places.take(1, false).unwrap().is_for_requests());
        drop(beyond);
        assert_eq!(places.shared.taken.load(Ordering::Relaxed), 0);
        assert_eq!(places.shared.beyond.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_bodies_together_have_so_many_bytes_and_one_that_is_done_with_makes_room() {
        let bodies = Bodies::default();
        let (mut one, mut other) = (bodies.begin(100), bodies.begin(100));
        assert!(one.more(60) && other.more(40));
        assert!(!one.more(1));
        drop(one);
        assert!(other.more(60) && !bodies.begin(100).more(1));
        drop(other);
        assert_eq!(bodies.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_come_at_once_and_then_evenly() {
        let rate = Rate::default();
        let burst = || (0..10).filter(|_| rate.allows(4)).count();
        assert_eq!(burst(), 4);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(burst(), 2);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(burst(), 4);
        // A rate that is raised holds for the time that passes from then on.
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!((0..100).filter(|_| rate.allows(100)).count(), 25);
    }
}
