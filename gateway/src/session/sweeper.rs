//! Ends what has expired: the upstream sessions of a session that nobody used for long are deleted, and then its record.
//!
//! The store gives what has expired to whichever process asks first. When that one ends before it is done, another gets the rest
//! after [`Sweep::patience`]. Behind an outage it looks as if all had expired that were used meanwhile: those who served them come first
//! ([`AFTER_OUTAGE`]). Backends that cannot be reached then are not asked again: they forget idle sessions by themselves. One that
//! hangs makes its own sessions wait, and nobody else's: what is being ended does not keep the next look from what has expired since.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Sessions;
use super::record::{Record, RecordKey};
use super::store::StoreError;

/// How many cache entries are looked at before other tasks have their turn.
const FORGET_AT_A_TIME: usize = 256;
/// How many sessions are ended in one go.
const BATCH: usize = 100;
/// How many times that may be under way.
const BATCHES: usize = 8;
/// How long those who served sessions while the store did not answer, or who hear that another server has taken over, whose clock may
/// be ahead, have to say so.
pub(super) const AFTER_OUTAGE: Duration = Duration::from_secs(5);
/// The longest time between two looks.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// When sessions are ended.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    /// How long ago they must have expired, and how long another process has to end those that it took on.
    patience: Duration,
    /// The time between two looks.
    pause: Duration,
}

impl Sweep {
    /// For sessions that live for `ttl` without use: the shorter they live, the sooner is it seen that they have ended. The pause
    /// is not the same in each process, so that they do not look at the same moment.
    fn new(ttl: Duration) -> Self {
        let pause = ttl.clamp(Duration::from_millis(100), MAX_PAUSE);
        let [byte] = crate::runtime::random::bytes::<1>();
        Self {
            patience: pause,
            pause: pause.mul_f64(0.8 + 0.4 * f64::from(byte) / 255.0),
        }
    }
}

impl Sessions {
    /// Ends expired sessions until the process drains; `ttl` is how long they live without use.
    pub fn sweep(&self, ttl: Duration) {
        let (sessions, sweep) = (self.clone(), Sweep::new(ttl));
        let batches = Arc::new(Semaphore::new(BATCHES));
        self.inner.tasks.spawn_until_drain(async move {
            loop {
                tokio::time::sleep(sweep.pause).await;
                let inner = &*sessions.inner;
                sessions.forget_expired(ttl).await;
                if !inner.outage.kept_alive_for(AFTER_OUTAGE) || !inner.proof.is_heard_for(AFTER_OUTAGE) {
                    continue;
                }
                if let Err(error) = sessions.sweep_once(sweep.patience, &batches).await {
                    tracing::debug!(%error, "expired sessions are not ended");
                }
            }
        });
    }

    /// Drops the cache entries of sessions that have expired, whose records may have been removed by another process.
    async fn forget_expired(&self, ttl: Duration) {
        let cache = &self.inner.cache;
        for _ in 0..cache.len().div_ceil(FORGET_AT_A_TIME) {
            // A session with a connection here may be in use at another process, which is looked at before the connection is closed.
            cache.forget_expired(ttl, FORGET_AT_A_TIME, |key| self.inner.local.has(key));
            tokio::task::yield_now().await;
        }
    }

    /// Begins to end what has expired, as soon as one of `batches` is free.
    async fn sweep_once(&self, patience: Duration, batches: &Arc<Semaphore>) -> Result<(), StoreError> {
        while let Ok(place) = Arc::clone(batches).acquire_owned().await {
            let claimed = self.inner.store.claim_expired(patience, BATCH).await?;
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
                tracing::debug!(backend = %backend.name(), %error, "an upstream session could not be deleted");
            }
        });
        futures::future::join_all(closing).await;
        let keys: Vec<RecordKey> = claimed.iter().map(|(key, _)| *key).collect();
        if let Err(error) = self.inner.store.remove_expired(&keys).await {
            tracing::debug!(%error, "expired sessions are not removed; another process will");
        }
        drop(place);
    }

    /// The upstream sessions of a record, at the backends that gave them and are still there.
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
