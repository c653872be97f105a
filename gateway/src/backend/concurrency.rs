//! The concurrency limit of one backend.
//!
//! A call without a free slot waits for a short time in a short queue. This bounds what the calls of one backend hold, so a hanging
//! backend cannot exhaust the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::BackendError;
use crate::config::ConcurrencySettings;

/// Limits the running and waiting calls of a backend.
#[derive(Debug, Default)]
pub(super) struct ConcurrencyLimit {
    current: ArcSwap<SlotPool>,
}

/// The slots and the queue under one version of the settings.
#[derive(Debug)]
struct SlotPool {
    settings: ConcurrencySettings,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A place in the queue, freed when it is dropped.
struct Queued<'a>(&'a AtomicUsize);

impl ConcurrencyLimit {
    /// Applies new settings. Running calls keep their slots, so for a while more calls may run than the new limit allows.
    pub(super) fn set(&self, settings: ConcurrencySettings) {
        if self.current.load().settings != settings {
            self.current.store(Arc::new(SlotPool::new(settings)));
        }
    }

    /// Acquires a slot, which is free again when the permit is dropped.
    pub(super) async fn acquire(&self) -> Result<OwnedSemaphorePermit, BackendError> {
        if let Ok(permit) = Arc::clone(&self.current.load().free).try_acquire_owned() {
            return Ok(permit);
        }
        let pool = self.current.load_full();
        let full = BackendError::Overloaded(pool.settings.limit);
        let Some(_queued) = Queued::enter(&pool) else {
            return Err(full);
        };
        match tokio::time::timeout(pool.settings.wait, Arc::clone(&pool.free).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(full),
        }
    }
}

impl SlotPool {
    fn new(settings: ConcurrencySettings) -> Self {
        Self {
            settings,
            free: Arc::new(Semaphore::new(settings.limit)),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl Default for SlotPool {
    fn default() -> Self {
        Self::new(ConcurrencySettings::default())
    }
}

impl<'a> Queued<'a> {
    fn enter(pool: &'a SlotPool) -> Option<Self> {
        let queued = Self(&pool.waiting);
        (pool.waiting.fetch_add(1, Ordering::Relaxed) < pool.settings.queue).then_some(queued)
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
    async fn call_waits_at_the_limit_and_fails_at_a_full_queue() {
        // At the limit a call waits for a slot; with a full queue it fails at once.
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
    async fn queued_call_times_out_and_leaves_the_queue() {
        let slots = slots(1, 1);
        let _held = slots.acquire().await.unwrap();
        let began = Instant::now();
        assert!(slots.acquire().await.is_err());
        assert_eq!(began.elapsed(), WAIT);
        assert_eq!(slots.current.load().waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn new_limit_applies_to_the_next_call() {
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
