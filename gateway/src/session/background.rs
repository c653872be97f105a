//! Background tasks of sessions: follow the store's events, move idle deadlines, and probe a store that fails.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::Notify;

use super::Sessions;
use super::cache::CachedSession;
use super::record::RecordKey;
use super::store::{LoadOutcome, SessionLife, StoreError, StoreEvent, TouchOutcome};
use crate::runtime::readiness::ReadinessWait;
use crate::session::recovery::outage::StoreOperation;

/// Interval between probes of a failing store.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Time for which deadlines to move are collected into one batch.
const BATCH_WINDOW: Duration = Duration::from_millis(200);
/// Maximum number of deadlines moved by one command.
const TOUCH_BATCH: usize = 256;

/// Sessions whose idle deadline is to be moved. A session is here at most once ([`CacheEntry::record_use`]), so the
/// cache bounds the size.
#[derive(Debug, Default)]
pub(super) struct PendingTouches {
    due: Mutex<Vec<RecordKey>>,
    notify: Notify,
}

impl PendingTouches {
    /// Queues `key` and wakes the task.
    pub(super) fn add(&self, key: RecordKey) {
        self.due.lock().unwrap_or_else(PoisonError::into_inner).push(key);
        self.notify.notify_one();
    }

    fn take(&self) -> Vec<RecordKey> {
        std::mem::take(&mut *self.due.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Queues `keys` again without waking the task.
    fn put_back(&self, keys: &[RecordKey]) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.extend_from_slice(keys);
    }
}

impl Sessions {
    /// Starts the background tasks. They run until the process has drained. `loading` is dropped when the catalog has
    /// loaded what the store has persisted.
    pub fn run(&self, loading: ReadinessWait) {
        let tasks = &self.inner.tasks;
        match self.inner.store.events(self.inner.freshness.renewal_interval()) {
            Some(events) => {
                tasks.spawn_until_idle(self.clone().follow_events(events));
                tasks.spawn_until_drain(self.clone().sync_catalog(loading));
            }
            None => self.inner.freshness.set_sole_writer(),
        }
        tasks.spawn_until_drain(self.clone().share_upstream_sessions());
        tasks.spawn_until_idle(self.clone().move_deadlines());
        tasks.spawn_until_idle(self.clone().touch_running_sessions());
        tasks.spawn_until_idle(self.clone().probe_store());
        tasks.spawn_until_drain(self.clone().close_ended_connections());
        let (sessions, drained) = (self.clone(), tasks.drained());
        tasks.spawn(async move {
            drained.await;
            sessions.reconcile().await;
        });
    }

    async fn follow_events(self, mut events: BoxStream<'static, StoreEvent>) {
        let inner = &*self.inner;
        while let Some(event) = events.next().await {
            match event {
                StoreEvent::Records(records) => {
                    let stamp = inner.freshness.stamp_of_event();
                    for (key, record) in records {
                        match inner.cache.peek(&key) {
                            // The store has lost a write. The next read writes it back.
                            Some(entry) if entry.is_ahead_of(&record, stamp) => entry.invalidate(),
                            Some(_) | None => drop(inner.cache.insert(&key, record, stamp)),
                        }
                        inner.streams.changed(&key);
                    }
                }
                StoreEvent::Changed(key) => {
                    inner.cache.invalidate(&key);
                    // No request will load it on behalf of an open stream or a running call.
                    if inner.streams.is_open(&key) || !inner.in_flight.is_quiet(&key) {
                        let sessions = self.clone();
                        inner
                            .tasks
                            .spawn(async move { sessions.reload_session(&key).await });
                    }
                }
                StoreEvent::Terminated(key, life) => self.mark_terminated(&key, life),
                StoreEvent::StreamOwner { key, owner, number } => {
                    if owner != inner.process_id {
                        inner.streams.supersede(&key, number);
                    }
                }
                StoreEvent::CurrentAsOf(at) => {
                    if let Some(caught_up) = inner.freshness.renew(at) {
                        let sessions = self.clone();
                        inner.tasks.spawn_until_idle(async move {
                            sessions.repair_after_interruption(caught_up).await;
                        });
                    }
                }
                StoreEvent::Interrupted => {
                    tracing::info!(
                        "event subscription interrupted; cached sessions are read again before use"
                    );
                    inner.freshness.interrupted();
                }
            }
        }
    }

    /// Marks the session as terminated, here or on another replica, and stops its streams and requests.
    pub(super) fn mark_terminated(&self, key: &RecordKey, life: SessionLife) {
        let inner = &*self.inner;
        inner.cache.terminate(key, life);
        inner.unstored_cookies.forget(key);
        inner.streams.close(key);
        inner.in_flight.end(key);
        self.close_connections(key);
        self.delete_upstreams_of_terminated(key);
    }

    /// Drops a session of which the store has no record, and stops its streams and requests.
    pub(super) fn drop_session(&self, key: &RecordKey) {
        let inner = &*self.inner;
        inner.cache.remove(key);
        inner.unstored_cookies.forget(key);
        inner.streams.close(key);
        inner.in_flight.end(key);
        self.close_connections(key);
    }

    /// Reloads a session that has an open stream or a running request.
    pub(super) async fn reload_session(&self, key: &RecordKey) {
        let inner = &*self.inner;
        let stamp = inner.freshness.stamp_now();
        let lives = match self.observed(StoreOperation::Load, inner.store.load(key).await) {
            Ok(LoadOutcome::Found(record)) => match self.accept_loaded(key, record, stamp).await {
                Ok(found) => found.is_some(),
                Err(_) => return,
            },
            Ok(LoadOutcome::Gone) => match self.resolve_missing(key, None).await {
                Ok(found) => found.is_some(),
                Err(_) => return,
            },
            // An unavailable store ends no session.
            Err(_) => return,
        };
        if lives {
            inner.streams.changed(key);
            if inner.streams.is_unclaimed(key) {
                // If this claim fails, the next one follows after the next interruption.
                drop(self.claim_stream(key).await);
            }
        } else {
            self.drop_session(key);
        }
    }

    /// Moves queued idle deadlines. What fails while the store is unavailable is moved when it answers again, also
    /// without further use of the session: sweepers of other replicas rely on it.
    async fn move_deadlines(self) {
        let touches = &self.inner.pending_touches;
        loop {
            touches.notify.notified().await;
            tokio::time::sleep(BATCH_WINDOW).await;
            let mut unavailable = false;
            for keys in touches.take().chunks(TOUCH_BATCH) {
                unavailable = unavailable || self.touch_now(keys).await.is_err();
                if unavailable {
                    touches.put_back(keys);
                }
            }
            if unavailable {
                tokio::time::sleep(PROBE_INTERVAL).await;
                touches.notify.notify_one();
            }
        }
    }

    async fn touch_now(&self, keys: &[RecordKey]) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let stamp = inner.freshness.stamp_now();
        let touched = self.observed(StoreOperation::Touch, inner.store.touch(keys).await)?;
        for (index, key) in keys.iter().enumerate() {
            let CachedSession::Entry(entry) = inner.cache.get(key) else {
                continue;
            };
            match touched.get(index) {
                Some(TouchOutcome::Alive { version, left }) => entry.record_touch(*version, *left, stamp),
                Some(TouchOutcome::Gone) => {
                    entry.record_failed_touch();
                    // The session has ended, or its record was lost and must be restored.
                    entry.invalidate();
                    drop(self.resolve_missing(key, None).await);
                }
                None => entry.record_failed_touch(),
            }
        }
        Ok(())
    }

    /// Moves the deadlines of sessions with running requests. A call that is answered in JSON makes no other sign of
    /// use until it ends.
    async fn touch_running_sessions(self) {
        let inner = &*self.inner;
        let every = inner.settings.lifetimes.touch_every();
        loop {
            tokio::time::sleep(every).await;
            for key in inner.in_flight.keys() {
                if let CachedSession::Entry(entry) = inner.cache.get(&key)
                    && entry.record_use(every)
                {
                    inner.pending_touches.add(key);
                }
            }
        }
    }

    /// Probes the store while an operation fails or freshness is not proven, so that [`Sessions::store_error`] is
    /// correct without traffic. It then settles what was postponed during the outage.
    async fn probe_store(self) {
        let store = &self.inner.store;
        loop {
            if self.inner.outage.is_down() || !self.inner.freshness.is_current() {
                let read = self.observed(StoreOperation::ProbeReads, store.probe_reads().await);
                if read.is_ok() && self.inner.outage.is_down() {
                    // `observed` records the outcome.
                    drop(self.observed(StoreOperation::ProbeWrites, store.probe_writes().await));
                }
            }
            if self.inner.outage.current().is_none() && self.has_to_reconcile() {
                let sessions = self.clone();
                self.inner.tasks.spawn(async move { sessions.reconcile().await });
            }
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
    }
}
