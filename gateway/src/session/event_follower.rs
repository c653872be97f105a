//! Follows the store's events: keeps the cache current, and ends what other replicas have ended.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::local_sessions::LocalSessions;
use super::recovery::lost_data::Recovery;
use super::recovery::observed_store::ObservedStore;
use super::store::StoreEvent;
use super::teardown::SessionTeardown;
use crate::runtime::tasks::Tasks;

/// Applies the changes that other replicas make.
#[derive(Debug)]
pub(super) struct EventFollower {
    store: Arc<ObservedStore>,
    local: LocalSessions,
    teardown: SessionTeardown,
    recovery: Recovery,
    tasks: Tasks,
}

impl EventFollower {
    pub(super) fn new(
        store: Arc<ObservedStore>,
        local: LocalSessions,
        teardown: SessionTeardown,
        recovery: Recovery,
        tasks: Tasks,
    ) -> Self {
        Self {
            store,
            local,
            teardown,
            recovery,
            tasks,
        }
    }

    /// Applies `events` until the process has drained.
    pub(super) async fn run(self, mut events: BoxStream<'static, StoreEvent>) {
        while let Some(event) = events.next().await {
            self.apply(event);
        }
    }

    fn apply(&self, event: StoreEvent) {
        let LocalSessions {
            cache,
            streams,
            in_flight,
            ..
        } = &self.local;
        match event {
            StoreEvent::Records(records) => {
                let stamp = cache.freshness().stamp_of_event();
                for (key, record) in records {
                    match cache.peek(&key) {
                        // The store has lost a write. The next read writes it back.
                        Some(entry) if entry.is_ahead_of(&record, stamp) => entry.invalidate(),
                        Some(_) | None => drop(cache.insert(&key, record, stamp)),
                    }
                    streams.changed(&key);
                }
            }
            StoreEvent::Changed(key) => {
                cache.invalidate(&key);
                // No request will load it on behalf of an open stream or a running call.
                if streams.is_open(&key) || !in_flight.is_quiet(&key) {
                    let recovery = self.recovery.clone();
                    self.tasks
                        .spawn(async move { recovery.reload_session(&key).await });
                }
            }
            StoreEvent::Terminated(key, life) => self.teardown.mark_terminated(&key, life),
            StoreEvent::StreamOwner { key, owner, number } => {
                if owner != self.store.process_id() {
                    streams.supersede(&key, number);
                }
            }
            StoreEvent::CurrentAsOf(at) => {
                if let Some(caught_up) = cache.freshness().renew(at) {
                    let recovery = self.recovery.clone();
                    self.tasks.spawn_until_idle(async move {
                        recovery.repair_after_interruption(caught_up).await;
                    });
                }
            }
            StoreEvent::Interrupted => {
                tracing::info!("event subscription interrupted; cached sessions are read again before use");
                cache.freshness().interrupted();
            }
        }
    }
}
