//! Sweeper: deletes the upstream sessions of expired sessions, then their records.
//!
//! Any replica claims expired records from the store. If that replica stops, another one claims them again after
//! [`Sweep::claim_timeout`]. After an outage, sessions that were in use may look expired, so the sweeper waits for
//! the replicas that served them ([`AFTER_OUTAGE`]). A backend that cannot be reached is not retried; its idle
//! timeout applies. A backend that hangs delays only its own sessions, because batches run concurrently.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::cache::SessionCache;
use super::record::{Record, RecordKey};
use super::recovery::observed_store::ObservedStore;
use super::recovery::outage::AFTER_OUTAGE;
use super::store::StoreError;
use super::upstream::UpstreamSessions;
use super::upstream::sse_connections::SseConnections;
use crate::runtime::tasks::Tasks;

/// Number of cache entries examined before the task yields.
const ENTRIES_PER_STEP: usize = 256;
/// Maximum number of sessions per batch.
const BATCH_SIZE: usize = 100;
/// Maximum number of concurrent batches.
const MAX_CONCURRENT_BATCHES: usize = 8;
/// Maximum interval between two sweeps.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// When sweeps run, and which records they claim.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    /// Minimum time since expiry, and time after which another replica claims an unfinished record.
    claim_timeout: Duration,
    /// Interval between two sweeps.
    pause: Duration,
}

impl Sweep {
    /// Chooses the timing for the idle lifetime `ttl`: a shorter lifetime is checked more often. A random factor
    /// spreads the replicas' sweeps.
    fn new(ttl: Duration) -> Self {
        let pause = ttl.clamp(Duration::from_millis(100), MAX_PAUSE);
        let [byte] = crate::runtime::random::bytes::<1>();
        Self {
            claim_timeout: pause,
            pause: pause.mul_f64(0.8 + 0.4 * f64::from(byte) / 255.0),
        }
    }
}

/// Deletes expired sessions: their cache entries here, and their records and upstream sessions everywhere.
#[derive(Clone, Debug)]
pub(super) struct Sweeper {
    store: Arc<ObservedStore>,
    cache: Arc<SessionCache>,
    sse_connections: SseConnections,
    upstreams: UpstreamSessions,
    /// The idle lifetime of sessions.
    idle: Duration,
    tasks: Tasks,
}

impl Sweeper {
    pub(super) fn new(
        store: Arc<ObservedStore>,
        cache: Arc<SessionCache>,
        sse_connections: SseConnections,
        upstreams: UpstreamSessions,
        idle: Duration,
        tasks: Tasks,
    ) -> Self {
        Self {
            store,
            cache,
            sse_connections,
            upstreams,
            idle,
            tasks,
        }
    }

    /// Sweeps expired sessions. Runs until the process drains.
    pub(super) async fn run(self) {
        let sweep = Sweep::new(self.idle);
        let batches = Arc::new(Semaphore::new(MAX_CONCURRENT_BATCHES));
        loop {
            tokio::time::sleep(sweep.pause).await;
            self.drop_expired().await;
            if !self.store.outage().kept_alive_for(AFTER_OUTAGE)
                || !self.cache.freshness().is_uninterrupted_for(AFTER_OUTAGE)
            {
                continue;
            }
            if let Err(error) = self.sweep_once(sweep.claim_timeout, &batches).await {
                tracing::debug!(%error, "failed to sweep expired sessions");
            }
        }
    }

    /// Drops cache entries of expired sessions, whose records another replica may have removed.
    async fn drop_expired(&self) {
        for _ in 0..self.cache.len().div_ceil(ENTRIES_PER_STEP) {
            // A session with a connection here may be in use on another replica; that is checked before the
            // connection is closed.
            let has_connection = |key: &RecordKey| self.sse_connections.has(key);
            self.cache
                .drop_expired(self.idle, ENTRIES_PER_STEP, has_connection);
            tokio::task::yield_now().await;
        }
    }

    /// Claims expired records and starts a batch whenever one of `batches` is free.
    async fn sweep_once(&self, claim_timeout: Duration, batches: &Arc<Semaphore>) -> Result<(), StoreError> {
        while let Ok(place) = Arc::clone(batches).acquire_owned().await {
            let store = self.store.unobserved();
            let claimed = store.claim_expired(claim_timeout, BATCH_SIZE).await?;
            if claimed.is_empty() {
                break;
            }
            let may_be_more = claimed.len() == BATCH_SIZE;
            let sweeper = self.clone();
            self.tasks
                .spawn_until_drain(async move { sweeper.end_expired(claimed, place).await });
            if !may_be_more {
                break;
            }
        }
        Ok(())
    }

    async fn end_expired(&self, claimed: Vec<(RecordKey, Record)>, place: OwnedSemaphorePermit) {
        let upstreams = claimed
            .iter()
            .flat_map(|(_, record)| self.upstreams.of_record(record));
        let closing = upstreams.map(|(backend, session)| async move {
            if let Err(error) = backend.enqueue_delete(&session).await {
                tracing::debug!(backend = %backend.name(), %error, "failed to delete upstream session");
            }
        });
        futures::future::join_all(closing).await;
        let keys: Vec<RecordKey> = claimed.iter().map(|(key, _)| *key).collect();
        if let Err(error) = self.store.unobserved().remove_expired(&keys).await {
            tracing::debug!(%error, "failed to remove expired sessions; another replica retries");
        }
        drop(place);
    }
}
