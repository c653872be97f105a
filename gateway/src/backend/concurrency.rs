//! How many calls run at one backend at a time, and who waits for a place.
//!
//! Whoever finds no place waits for a short time in a short queue. What one backend's calls hold is thereby bounded, and one that
//! hangs takes no more of the process than its own places.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::BackendError;
use crate::config::ConcurrencySettings;

#[derive(Debug, Default)]
pub(super) struct ConcurrencyLimit {
    room: ArcSwap<RunningCall>,
}

#[derive(Debug)]
struct RunningCall {
    settings: ConcurrencySettings,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// One place in the queue.
struct Queued<'a>(&'a AtomicUsize);

impl ConcurrencyLimit {
    /// Calls that run keep the places that they have, so that for a while there may be more than a new limit allows.
    pub(super) fn set(&self, settings: ConcurrencySettings) {
        if self.room.load().settings != settings {
            self.room.store(Arc::new(RunningCall::new(settings)));
        }
    }

    /// A place, which is free again when the result is dropped.
    pub(super) async fn acquire(&self) -> Result<OwnedSemaphorePermit, BackendError> {
        if let Ok(permit) = Arc::clone(&self.room.load().free).try_acquire_owned() {
            return Ok(permit);
        }
        let room = self.room.load_full();
        let full = BackendError::Overloaded(room.settings.limit);
        let Some(_queued) = Queued::enter(&room) else {
            return Err(full);
        };
        match tokio::time::timeout(room.settings.wait, Arc::clone(&room.free).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(full),
        }
    }
}

impl RunningCall {
    fn new(settings: ConcurrencySettings) -> Self {
        Self {
            settings,
            free: Arc::new(Semaphore::new(settings.limit)),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl Default for RunningCall {
    fn default() -> Self {
        Self::new(ConcurrencySettings::default())
    }
}

impl<'a> Queued<'a> {
    fn enter(room: &'a RunningCall) -> Option<Self> {
        let queued = Self(&room.waiting);
        (room.waiting.fetch_add(1, Ordering::Relaxed) < room.settings.queue).then_some(queued)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    const WAIT: Duration = Duration::from_secs(1);

    fn slots(limit: usize, queue: usize) -> ConcurrencyLimit {
        let slots = ConcurrencyLimit::default();
        slots.set(ConcurrencySettings {
            limit,
            queue,
            wait: WAIT,
        });
        slots
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_limit_one_waits_for_a_place_and_beyond_the_queue_nobody_does() {
        let slots = slots(1, 1);
        let held = slots.acquire().await.unwrap();
        let began = Instant::now();
        let (waited, refused, ()) = tokio::join!(slots.acquire(), slots.acquire(), async {
            tokio::time::sleep(WAIT / 2).await;
            drop(held);
        });
        assert!(waited.is_ok());
        assert_eq!(refused.unwrap_err(), BackendError::Overloaded(1));
        assert_eq!(began.elapsed(), WAIT / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_waits_only_so_long_and_leaves_the_queue_empty() {
        let slots = slots(1, 1);
        let _held = slots.acquire().await.unwrap();
        let began = Instant::now();
        assert!(slots.acquire().await.is_err());
        assert_eq!(began.elapsed(), WAIT);
        assert_eq!(slots.room.load().waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_holds_for_the_next_call() {
        let slots = slots(1, 0);
        let _held = slots.acquire().await.unwrap();
        assert!(slots.acquire().await.is_err());
        slots.set(ConcurrencySettings {
            limit: 2,
            queue: 0,
            wait: WAIT,
        });
        assert!(slots.acquire().await.is_ok());
    }
}
