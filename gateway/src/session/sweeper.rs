//! Sweeper: deletes the upstream sessions of expired sessions, then their records.
//!
//! Any replica claims expired records from the store. If that replica stops, another one claims them again after
//! [`Sweep::claim_timeout`]. After an outage, sessions that were in use may look expired, so the sweeper waits for
//! the replicas that served them ([`AFTER_OUTAGE`]). A backend that cannot be reached is not retried; its idle
//! timeout applies. A backend that hangs delays only its own sessions, because batches run concurrently.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Sessions;
use super::record::{Record, RecordKey};
use super::store::StoreError;

/// Number of cache entries examined before the task yields.
const FORGET_AT_A_TIME: usize = 256;
/// Maximum number of sessions per batch.
const BATCH: usize = 100;
/// Maximum number of concurrent batches.
const BATCHES: usize = 8;
/// Time after an outage or failover for replicas to move the deadlines of sessions that they served meanwhile. The
/// clock of a promoted server may be ahead.
pub(super) const AFTER_OUTAGE: Duration = Duration::from_secs(5);
/// Maximum interval between two sweeps.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Timing of the sweeps.
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

impl Sessions {
    /// Sweeps expired sessions until the process drains. `ttl` is the idle lifetime.
    pub fn sweep(&self, ttl: Duration) {
        let (sessions, sweep) = (self.clone(), Sweep::new(ttl));
        let batches = Arc::new(Semaphore::new(BATCHES));
        self.inner.tasks.spawn_until_drain(async move {
            loop {
                tokio::time::sleep(sweep.pause).await;
                let inner = &*sessions.inner;
                sessions.drop_expired(ttl).await;
                if !inner.outage.kept_alive_for(AFTER_OUTAGE)
                    || !inner.freshness.is_uninterrupted_for(AFTER_OUTAGE)
                {
                    continue;
                }
                if let Err(error) = sessions.sweep_once(sweep.claim_timeout, &batches).await {
                    tracing::debug!(%error, "failed to sweep expired sessions");
                }
            }
        });
    }

    /// Drops cache entries of expired sessions, whose records another replica may have removed.
    async fn drop_expired(&self, ttl: Duration) {
        let cache = &self.inner.cache;
        for _ in 0..cache.len().div_ceil(FORGET_AT_A_TIME) {
            // A session with a connection here may be in use on another replica; that is checked before the
            // connection is closed.
            cache.drop_expired(ttl, FORGET_AT_A_TIME, |key| self.inner.sse_sessions.has(key));
            tokio::task::yield_now().await;
        }
    }

    /// Claims expired records and starts a batch whenever one of `batches` is free.
    async fn sweep_once(&self, claim_timeout: Duration, batches: &Arc<Semaphore>) -> Result<(), StoreError> {
        while let Ok(place) = Arc::clone(batches).acquire_owned().await {
            let claimed = self.inner.store.claim_expired(claim_timeout, BATCH).await?;
            if claimed.is_empty() {
                break;
            }
            let may_be_more = claimed.len() == BATCH;
            let sessions = self.clone();
            { &self.inner.tasks }
                .spawn_until_drain(async move { sessions.end_expired(claimed, place).await });
            if !may_be_more {
                break;
            }
        }
        Ok(())
    }

    async fn end_expired(&self, claimed: Vec<(RecordKey, Record)>, place: OwnedSemaphorePermit) {
        let upstreams = claimed.iter().flat_map(|(_, record)| self.upstreams_of(record));
        let closing = upstreams.map(|(backend, session)| async move {
            if let Err(error) = backend.enqueue_delete(&session).await {
                tracing::debug!(backend = %backend.name(), %error, "failed to delete upstream session");
            }
        });
        futures::future::join_all(closing).await;
        let keys: Vec<RecordKey> = claimed.iter().map(|(key, _)| *key).collect();
        if let Err(error) = self.inner.store.remove_expired(&keys).await {
            tracing::debug!(%error, "failed to remove expired sessions; another replica retries");
        }
        drop(place);
    }

    /// The upstream sessions that a record names, at backends that are still configured with the same origin.
    pub(super) fn upstreams_of(
        &self,
        record: &Record,
    ) -> Vec<(crate::backend::Backend, crate::backend::UpstreamSession)> {
        let catalog = self.inner.core.catalog();
        let bindings = record.bindings.iter();
        let known = bindings.filter_map(|(name, binding)| {
            let backend = catalog
                .backend(name)
                .filter(|backend| backend.origin() == binding.origin)?;
            Some((backend, binding.session.clone()))
        });
        known.collect()
    }
}
