//! Moves the idle deadlines of sessions in use, in batches.

use std::sync::Arc;
use std::time::Duration;

use super::cache::CachedSession;
use super::local_sessions::LocalSessions;
use super::record::RecordKey;
use super::recovery::lost_data::Recovery;
use super::recovery::observed_store::ObservedStore;
use super::store::{StoreError, TouchOutcome};

/// Pause before deadlines are moved again after the store has failed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Time for which deadlines to move are collected into one batch.
const BATCH_WINDOW: Duration = Duration::from_millis(200);
/// Maximum number of deadlines moved by one command.
const TOUCH_BATCH: usize = 256;

/// Moves idle deadlines in the store. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(super) struct IdleDeadlines {
    store: Arc<ObservedStore>,
    local: LocalSessions,
    recovery: Recovery,
    /// Minimum interval between two moves of one deadline.
    every: Duration,
}

impl IdleDeadlines {
    pub(super) fn new(
        store: Arc<ObservedStore>,
        local: LocalSessions,
        recovery: Recovery,
        every: Duration,
    ) -> Self {
        Self {
            store,
            local,
            recovery,
            every,
        }
    }

    /// Moves queued idle deadlines. What fails while the store is unavailable is moved when it answers again, also
    /// without further use of the session: sweepers of other replicas rely on it.
    pub(super) async fn move_queued(self) {
        let touches = &self.local.pending_touches;
        loop {
            touches.queued().await;
            tokio::time::sleep(BATCH_WINDOW).await;
            let mut unavailable = false;
            for keys in touches.take().chunks(TOUCH_BATCH) {
                unavailable = unavailable || self.touch(keys).await.is_err();
                if unavailable {
                    touches.put_back(keys);
                }
            }
            if unavailable {
                tokio::time::sleep(RETRY_PAUSE).await;
                touches.wake();
            }
        }
    }

    async fn touch(&self, keys: &[RecordKey]) -> Result<(), StoreError> {
        let cache = &self.local.cache;
        let stamp = cache.stamp_now();
        let touched = self.store.touch(keys).await?;
        for (index, key) in keys.iter().enumerate() {
            let CachedSession::Entry(entry) = cache.get(key) else {
                continue;
            };
            match touched.get(index) {
                Some(TouchOutcome::Alive { version, left }) => entry.record_touch(*version, *left, stamp),
                Some(TouchOutcome::Gone) => {
                    entry.record_failed_touch();
                    // The session has ended, or its record was lost and must be restored.
                    entry.invalidate();
                    drop(self.recovery.resolve_missing(key, None).await);
                }
                None => entry.record_failed_touch(),
            }
        }
        Ok(())
    }

    /// Queues the deadlines of sessions with running requests. A call that is answered in JSON makes no other sign of
    /// use until it ends.
    pub(super) async fn queue_running(self) {
        let LocalSessions {
            cache,
            in_flight,
            pending_touches,
            ..
        } = &self.local;
        loop {
            tokio::time::sleep(self.every).await;
            for key in in_flight.keys() {
                if let CachedSession::Entry(entry) = cache.get(&key)
                    && entry.record_use(self.every)
                {
                    pending_touches.add(key);
                }
            }
        }
    }
}
