//! Recovery: restores session records after the store has lost data.
//!
//! **The data is gone.** The store's data has an [`Incarnation`]; a script that finds none begins a new one. A record
//! that is missing in the incarnation in which it was last seen belongs to a session that has ended. A record that is
//! missing in a later incarnation was lost. A replica that has it cached restores it. A replica that has only the id
//! recovers the session from the id, once, one second after the incarnation began, so that replicas with more
//! knowledge come first.
//!
//! The first response from the new incarnation starts this: all cached records are written back, and all tombstones
//! are written again, so that no replica recovers a terminated session.
//!
//! **The last writes are gone** (failover to an asynchronous replica). The incarnation stays. So after each
//! interruption of the subscription, sessions that this process created, changed or terminated within
//! [`MAX_LOST_WRITE_AGE`] before it are written or terminated again. After a longer interruption tombstones may have
//! expired, so no record is created again, and only existing records are completed: bindings by their generation, client
//! settings by the record's version. A record that is read and lacks what this process has cached is completed before
//! use, so that no second upstream session is opened.
//!
//! **A request comes first.** A replica that does not have the session cached may get a request before all that. A
//! record that is missing in the incarnation in which the session began, without a tombstone, and too young to have
//! expired counts as lost, and the request waits for it ([`FailoverWait`]).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::runtime::tasks::Tasks;
use crate::session::SessionError;
use crate::session::cache::cache_entry::CacheEntry;
use crate::session::cache::freshness::{CaughtUp, ReadStamp};
use crate::session::cache::{CachedSession, SessionCache};
use crate::session::id::SessionId;
use crate::session::local_sessions::LocalSessions;
use crate::session::record::{Record, RecordKey};
use crate::session::recovery::failover_wait::FailoverWait;
use crate::session::recovery::observed_store::ObservedStore;
use crate::session::recovery::pending_terminations::PendingTerminations;
use crate::session::recovery::recent_writes::{MAX_LOST_WRITE_AGE, RecentWrites};
use crate::session::store::{
    Incarnation, LoadOutcome, RESTORE_WINDOW, RecoverOutcome, RestoreReason, SessionLife, StoreError,
    StreamClaim, TOMBSTONE_LIFETIME,
};
use crate::session::teardown::SessionTeardown;
use crate::telemetry::Metrics;

/// Maximum number of concurrent writes.
const MAX_CONCURRENT_WRITES: usize = 32;
/// Maximum number of concurrent reads.
const MAX_CONCURRENT_READS: usize = 32;
/// Pause before the incarnation is read again after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Pause before failed terminations are tried again.
const TERMINATE_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Maximum number of times that one request waits for replicas that have the record cached.
const MAX_WAITS: u32 = 4;

/// Result of the second read of a record that was missing.
enum MissingRecord {
    Found(Record),
    Missing(RestoreReason),
    Ended,
}

/// Outcome of reading a session's record: `None` if the session is not alive.
pub(in crate::session) type LookupOutcome = Result<Option<Arc<CacheEntry>>, StoreError>;

/// Reads session records, and restores those that the store has lost. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(in crate::session) struct Recovery {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<ObservedStore>,
    local: LocalSessions,
    teardown: SessionTeardown,
    /// The idle lifetime of sessions.
    idle: Duration,
    recent_writes: RecentWrites,
    /// Notifies the persisted catalog that the store lost its data.
    data_lost: Notify,
    tasks: Tasks,
    metrics: Metrics,
}

impl Inner {
    fn cache(&self) -> &SessionCache {
        &self.local.cache
    }
}

impl Recovery {
    pub(in crate::session) fn new(
        store: Arc<ObservedStore>,
        local: LocalSessions,
        teardown: SessionTeardown,
        idle: Duration,
        tasks: Tasks,
        metrics: Metrics,
    ) -> Self {
        let inner = Inner {
            store,
            local,
            teardown,
            idle,
            recent_writes: RecentWrites::default(),
            data_lost: Notify::new(),
            tasks,
            metrics,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Records that this process wrote the record of `key`. After a failover the write is repeated.
    pub(in crate::session) fn note_write(&self, key: RecordKey) {
        self.inner.recent_writes.note(key);
    }

    /// Completes when the store has lost its data.
    pub(in crate::session) async fn data_lost(&self) {
        self.inner.data_lost.notified().await;
    }

    /// Reads the record of `key` into the cache, and restores it if it was lost. `id` is the session id, if a request
    /// named it.
    pub(in crate::session) async fn load(&self, key: &RecordKey, id: Option<&SessionId>) -> LookupOutcome {
        let inner = &*self.inner;
        let stamp = inner.cache().stamp_now();
        match inner.store.load(key).await? {
            LoadOutcome::Found(record) => self.accept_loaded(key, record, stamp).await,
            LoadOutcome::Gone => self.resolve_missing(key, id).await,
        }
    }

    /// Handles a missing record: restores the session if the record was lost. `id` is the session id, if a request
    /// named it.
    pub(in crate::session) async fn resolve_missing(
        &self,
        key: &RecordKey,
        id: Option<&SessionId>,
    ) -> LookupOutcome {
        let inner = &*self.inner;
        let mut stamp = inner.cache().stamp_now();
        let outcome = match (inner.cache().get(key), id) {
            (CachedSession::Terminated, _) | (CachedSession::Unknown, None) => RecoverOutcome::Gone,
            (CachedSession::Entry(entry), _) => match self.confirm_missing(key, &entry).await? {
                MissingRecord::Found(record) => RecoverOutcome::Found(record),
                MissingRecord::Missing(missing) => {
                    stamp = inner.cache().stamp_now();
                    let outcome = self.write_back(key, &entry, missing).await?;
                    if matches!(outcome, RecoverOutcome::Found(_)) {
                        inner.metrics.recovered();
                    }
                    outcome
                }
                MissingRecord::Ended => RecoverOutcome::Gone,
            },
            (CachedSession::Unknown, Some(id)) => self.recover(id).await?,
        };
        match outcome {
            RecoverOutcome::Found(record) => Ok(inner.cache().insert(key, record, stamp)),
            RecoverOutcome::Gone | RecoverOutcome::Wait(_) | RecoverOutcome::Vanished { .. } => {
                inner.teardown.drop_session(key);
                Ok(None)
            }
        }
    }

    /// Re-reads the store to decide whether a missing record was lost or the session has ended.
    ///
    /// The response that reported no record may be older than the cache entry: another replica may have restored the
    /// session in a new incarnation meanwhile. So the record is read once more between two looks at the incarnation.
    /// Only if both are the same was the session present in it, and has ended.
    async fn confirm_missing(
        &self,
        key: &RecordKey,
        entry: &CacheEntry,
    ) -> Result<MissingRecord, StoreError> {
        let inner = &*self.inner;
        let seen_in = entry.seen_in();
        if let LoadOutcome::Found(record) = inner.store.load(key).await? {
            return Ok(MissingRecord::Found(record));
        }
        let incarnation = inner.store.incarnation().await?;
        self.record_incarnation(incarnation);
        let missing = entry.restore_reason(seen_in, incarnation, inner.idle);
        Ok(missing.map_or(MissingRecord::Ended, MissingRecord::Missing))
    }

    /// Recovers a session from its id alone.
    async fn recover(&self, id: &SessionId) -> Result<RecoverOutcome, StoreError> {
        let inner = &*self.inner;
        let (life, new) = (id.life(), id.record());
        let mut failover_wait = FailoverWait::new(id, inner.idle);
        for _ in 0..MAX_WAITS {
            match inner.store.recover(&id.key, life, &new).await? {
                RecoverOutcome::Wait(wait) => tokio::time::sleep(wait.min(RESTORE_WINDOW)).await,
                RecoverOutcome::Vanished { now } => {
                    match failover_wait.next_pause(now, inner.cache().freshness()) {
                        Some(wait) => tokio::time::sleep(wait).await,
                        None => return Ok(RecoverOutcome::Gone),
                    }
                }
                RecoverOutcome::Found(record) => {
                    inner.metrics.recovered();
                    tracing::info!(key = ?id.key, "recovered a lost session");
                    return Ok(RecoverOutcome::Found(record));
                }
                RecoverOutcome::Gone => return Ok(RecoverOutcome::Gone),
            }
        }
        Err(failover_wait.into_error())
    }

    async fn write_back(
        &self,
        key: &RecordKey,
        entry: &CacheEntry,
        missing: RestoreReason,
    ) -> Result<RecoverOutcome, StoreError> {
        let record = Arc::clone(&entry.record());
        self.inner.store.restore(key, &record, missing).await
    }

    /// Completes `record`, which was read at `stamp`, if the store has lost writes that are cached here.
    pub(in crate::session) async fn complete_record(
        &self,
        key: &RecordKey,
        record: &Record,
        stamp: ReadStamp,
    ) -> Result<Option<RecoverOutcome>, StoreError> {
        match self.inner.cache().peek(key) {
            Some(entry) if entry.is_ahead_of(record, stamp) => self
                .write_back(key, &entry, RestoreReason::Expired)
                .await
                .map(Some),
            Some(_) | None => Ok(None),
        }
    }

    /// Caches `record`, which was read at `stamp`. Completes it in the store first if the store has lost writes.
    pub(in crate::session) async fn accept_loaded(
        &self,
        key: &RecordKey,
        record: Record,
        stamp: ReadStamp,
    ) -> LookupOutcome {
        let again = self.inner.cache().stamp_now();
        match self.complete_record(key, &record, stamp).await? {
            None => Ok(self.inner.cache().insert(key, record, stamp)),
            Some(RecoverOutcome::Found(record)) => Ok(self.inner.cache().insert(key, record, again)),
            Some(RecoverOutcome::Gone | RecoverOutcome::Wait(_) | RecoverOutcome::Vanished { .. }) => {
                self.resolve_missing(key, None).await
            }
        }
    }

    /// Records the incarnation of the store's data. If it is new, all cached records and tombstones are written back
    /// in the background.
    pub(in crate::session) fn record_incarnation(&self, incarnation: Incarnation) {
        if self
            .inner
            .cache()
            .freshness()
            .record_incarnation(incarnation)
            .is_none()
        {
            return;
        }
        tracing::warn!("session store lost its data; restoring cached sessions");
        self.inner.data_lost.notify_one();
        let recovery = self.clone();
        self.inner.tasks.spawn_until_idle(async move {
            let idle = recovery.inner.idle;
            let entries = recovery.inner.cache().entries();
            let alive = entries.into_iter().filter(|(_, entry)| entry.is_alive(idle));
            let ended = recovery.inner.cache().tombstones(None);
            tokio::join!(
                recovery.write_back_all(alive.collect(), RestoreReason::Lost),
                recovery.rewrite_tombstones(ended)
            );
        });
    }

    /// Repairs what a failover may have lost, after the subscription is restored.
    pub(in crate::session) async fn repair_after_interruption(&self, caught_up: CaughtUp) {
        let incarnation = loop {
            match self.inner.store.incarnation().await {
                Ok(incarnation) => break incarnation,
                // Events have their own connection, which may be restored before the other one.
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        };
        self.record_incarnation(incarnation);
        let Some(since) = caught_up.since else { return };
        let recent = since.checked_sub(MAX_LOST_WRITE_AGE).unwrap_or(since);
        // After a longer interruption tombstones may have expired, so records must not be created again.
        let missing = if since.elapsed() + MAX_LOST_WRITE_AGE < TOMBSTONE_LIFETIME {
            RestoreReason::Lost
        } else {
            RestoreReason::Expired
        };
        let LocalSessions {
            cache,
            streams,
            in_flight,
            pending_touches,
        } = &self.inner.local;
        let idle = self.inner.idle;
        let written = self.inner.recent_writes.since(recent);
        let entries = written.into_iter().filter_map(|key| match cache.get(&key) {
            CachedSession::Entry(entry) if entry.is_alive(idle) => Some((key, entry)),
            CachedSession::Entry(_) | CachedSession::Terminated | CachedSession::Unknown => None,
        });
        let ended = cache.tombstones(Some(recent.elapsed()));
        tokio::join!(
            self.write_back_all(entries.collect(), missing),
            self.rewrite_tombstones(ended)
        );
        // By the clock of a promoted server, sessions in use may have expired.
        for (key, entry) in cache.entries() {
            if entry.was_used_within(idle) && entry.begin_touch() {
                pending_touches.add(key);
            }
        }
        // Sessions that only hold a stream, or wait for a response, send no request that would reload the record.
        let waiting: HashSet<RecordKey> = streams.keys().into_iter().chain(in_flight.keys()).collect();
        let reloads = waiting
            .into_iter()
            .map(|key| async move { self.reload_session(&key).await });
        stream::iter(reloads)
            .buffer_unordered(MAX_CONCURRENT_WRITES)
            .collect::<()>()
            .await;
    }

    async fn write_back_all(&self, entries: Vec<(RecordKey, Arc<CacheEntry>)>, missing: RestoreReason) {
        let writing = entries.into_iter().map(|(key, entry)| async move {
            let stamp = self.inner.cache().stamp_now();
            match self.write_back(&key, &entry, missing).await {
                Ok(RecoverOutcome::Found(record)) => {
                    self.inner.metrics.recovered();
                    self.inner.cache().insert(&key, record, stamp);
                }
                // The session was terminated. The next lookup finds that out.
                Ok(RecoverOutcome::Gone | RecoverOutcome::Wait(_) | RecoverOutcome::Vanished { .. }) => {
                    entry.invalidate();
                }
                // The next lookup restores it.
                Err(_) => {}
            }
        });
        stream::iter(writing)
            .buffer_unordered(MAX_CONCURRENT_WRITES)
            .collect::<()>()
            .await;
    }

    /// Terminates sessions in the store again. Failed ones are retried in the background until their tombstones would
    /// expire: without a tombstone another replica could recover the session from its id.
    async fn rewrite_tombstones(&self, ended: Vec<(RecordKey, SessionLife)>) {
        let left = self.write_tombstones(ended).await;
        if left.is_empty() {
            return;
        }
        let recovery = self.clone();
        self.inner.tasks.spawn_until_idle(async move {
            let (mut left, until) = (left, Instant::now() + TOMBSTONE_LIFETIME);
            while !left.is_empty() && Instant::now() < until {
                tokio::time::sleep(TERMINATE_RETRY_PAUSE).await;
                left = recovery.write_tombstones(left).await;
            }
        });
    }

    /// Terminates the sessions and returns those for which the store failed.
    async fn write_tombstones(&self, ended: Vec<(RecordKey, SessionLife)>) -> Vec<(RecordKey, SessionLife)> {
        let terminating = ended.into_iter().map(|(key, life)| async move {
            let outcome = self.inner.store.terminate(&key, life).await;
            outcome
                .is_err_and(|unavailable| !unavailable.is_corrupt_record())
                .then_some((key, life))
        });
        stream::iter(terminating)
            .buffer_unordered(MAX_CONCURRENT_WRITES)
            .filter_map(|left| async move { left })
            .collect()
            .await
    }

    /// Reloads a session that has an open stream or a running request.
    pub(in crate::session) async fn reload_session(&self, key: &RecordKey) {
        let inner = &*self.inner;
        match self.load(key, None).await {
            Ok(Some(_)) => {
                inner.local.streams.changed(key);
                if inner.local.streams.is_unclaimed(key) {
                    // If this claim fails, the next one follows after the next interruption.
                    drop(self.claim_stream(key).await);
                }
            }
            Ok(None) => inner.teardown.drop_session(key),
            // An unavailable store ends no session.
            Err(_) => {}
        }
    }

    /// Claims the session's stream for this process in the store and returns the claim's number.
    pub(in crate::session) async fn claim_stream(&self, key: &RecordKey) -> Result<u64, SessionError> {
        let inner = &*self.inner;
        let mut owned = inner.store.claim_stream(key).await?;
        if owned == StreamClaim::Gone && self.resolve_missing(key, None).await?.is_some() {
            owned = inner.store.claim_stream(key).await?;
        }
        match owned {
            StreamClaim::Owned(number) => {
                inner.local.streams.set_claim(key, number);
                Ok(number)
            }
            StreamClaim::Gone => Err(SessionError::NotFound),
        }
    }

    /// Reads the sessions of pending terminations to learn their outcome.
    pub(in crate::session) async fn settle_pending_terminations(&self, terminations: &PendingTerminations) {
        let inner = &*self.inner;
        let settling = terminations.unasked().into_iter().map(|key| async move {
            if inner.store.outage().current().is_some() {
                return;
            }
            match inner.store.load(&key).await {
                Ok(LoadOutcome::Found(_)) => terminations.mark_alive(&key),
                Ok(LoadOutcome::Gone) => match self.resolve_missing(&key, None).await {
                    Ok(Some(_)) => terminations.mark_alive(&key),
                    Ok(None) => inner.teardown.delete_upstreams_of_terminated(&key),
                    Err(_) => {}
                },
                Err(error) if error.is_corrupt_record() => terminations.mark_alive(&key),
                Err(_) => {}
            }
        });
        stream::iter(settling)
            .buffer_unordered(MAX_CONCURRENT_READS)
            .collect::<()>()
            .await;
    }
}
