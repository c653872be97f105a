//! Finds the session that a session id names.
//!
//! A fresh cache entry ([`crate::session::cache::freshness`]) is used at once. Otherwise the store is asked, by
//! single flight: concurrent requests for one session load it once. A missing record may be lost rather than gone
//! ([`crate::session::recovery::lost_data`]). While the store does not answer, a cached session is served for a
//! limited time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use vmcp_crds::session_key::SessionKey;

use super::SessionError;
use super::cache::{CachedSession, SessionCache};
use super::client_session::ClientSession;
use super::id::SessionId;
use super::id::signing_keys::SigningKeys;
use super::id::verified_ids::VerifiedIds;
use super::record::{Lifetimes, Record, RecordKey};
use super::recovery::lost_data::{LookupOutcome, Recovery};
use super::recovery::observed_store::ObservedStore;
use super::store::StoreError;
use crate::config::ServerName;
use crate::core::Principal;
use crate::runtime::clock;
use crate::runtime::single_flight::SingleFlight;
use crate::runtime::tasks::Tasks;
use crate::session::cache::cache_entry::CacheEntry;
use crate::session::record::bindings::Bindings;
use crate::telemetry::Metrics;

/// Verifies session ids and finds their sessions. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(super) struct SessionLookup {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    server: ServerName,
    keys: SigningKeys,
    verified_ids: VerifiedIds,
    store: Arc<ObservedStore>,
    cache: Arc<SessionCache>,
    recovery: Recovery,
    lifetimes: Lifetimes,
    /// Single flight of loads: concurrent requests for one session load its record once.
    loads: SingleFlight<RecordKey, LookupOutcome>,
    tasks: Tasks,
    metrics: Metrics,
}

impl SessionLookup {
    #[expect(
        clippy::too_many_arguments,
        reason = "they are the components that it is built on"
    )]
    pub(super) fn new(
        server: ServerName,
        keys: SigningKeys,
        store: Arc<ObservedStore>,
        cache: Arc<SessionCache>,
        recovery: Recovery,
        lifetimes: Lifetimes,
        tasks: Tasks,
        metrics: Metrics,
    ) -> Self {
        let inner = Inner {
            server,
            keys,
            verified_ids: VerifiedIds::default(),
            store,
            cache,
            recovery,
            lifetimes,
            loads: SingleFlight::default(),
            tasks,
            metrics,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Reads the session id `id`, if it was signed for this server and `principal`, with the key that signed it.
    pub(super) fn verify(
        &self,
        id: &[u8],
        principal: &Principal,
    ) -> Result<(SessionId, Arc<SessionKey>), SessionError> {
        let inner = &*self.inner;
        if let Some(known) = inner.verified_ids.get(id, &inner.keys, principal) {
            return Ok(known);
        }
        let (read, signer) =
            SessionId::verify(id, &inner.keys, &inner.server, principal).ok_or(SessionError::NotFound)?;
        inner.verified_ids.add(id, &read, &signer, principal);
        Ok((read, signer))
    }

    /// Returns the live session of `principal` that a client names with `id`.
    ///
    /// # Errors
    /// There is no such session, or the store cannot say. An id that was not signed for this server and this
    /// principal is refused without a read of the store.
    pub(super) async fn find(&self, id: &[u8], principal: &Principal) -> Result<ClientSession, SessionError> {
        let (id, signer) = self.verify(id, principal)?;
        let entry = self.entry(&id).await?;
        if entry.record().principal_tag != id.principal_tag {
            return Err(SessionError::NotFound);
        }
        Ok(ClientSession {
            key: id.key,
            signer,
            entry,
        })
    }

    async fn entry(&self, id: &SessionId) -> Result<Arc<CacheEntry>, SessionError> {
        let inner = &*self.inner;
        let known = match inner.cache.get(&id.key) {
            CachedSession::Terminated => return Err(SessionError::NotFound),
            CachedSession::Entry(entry) => Some(entry),
            CachedSession::Unknown => None,
        };
        if let Some(entry) = &known {
            let down = inner.store.outage().current();
            let is_trusted = down.as_ref().is_none_or(|down| !down.is_certain());
            if is_trusted && entry.is_fresh(inner.cache.freshness()) {
                return Ok(Arc::clone(entry));
            }
            // Fail fast while the store is known to be down.
            if let Some(down) = down.filter(|down| down.reads.is_some()) {
                return self.serve_cached(id, entry, down.error.clone());
            }
        }
        match (self.load(id).await, known) {
            (Ok(Some(entry)), _) => Ok(entry),
            (Ok(None), _) => Err(SessionError::NotFound),
            (Err(unavailable), Some(entry)) => self.serve_cached(id, &entry, unavailable),
            (Err(unavailable), None) => self.serve_from_id(id, unavailable),
        }
    }

    /// Builds a session from its id alone, so that a replica that starts during an outage can serve.
    ///
    /// Rules: the outage is confirmed ([`StoreFailure::is_confirmed`](super::recovery::outage::StoreFailure::is_confirmed)), a late answer is not enough; the end that the
    /// id names has not passed; only backends at which no state can be lost are called
    /// ([`super::upstream`]). The entry is not cached, so the store is asked as soon as it answers again.
    ///
    /// Known gap: a session that was terminated or expired earlier may be served to its own principal until the store
    /// answers or the grace period ends. The id's end is compared with this machine's clock.
    fn serve_from_id(
        &self,
        id: &SessionId,
        unavailable: StoreError,
    ) -> Result<Arc<CacheEntry>, SessionError> {
        let inner = &*self.inner;
        let is_out = inner
            .store
            .outage()
            .current()
            .is_some_and(|down| down.is_confirmed());
        let is_over = clock::unix_seconds() >= u64::from(id.end);
        // The store has the record, but this version cannot read it.
        if unavailable.is_corrupt_record() || !is_out || is_over || !inner.store.is_served_without_reads() {
            return Err(unavailable.into());
        }
        let new = id.record();
        let record = Record {
            principal_tag: new.principal_tag,
            revision: new.revision,
            capabilities: new.capabilities,
            client_info: new.client_info,
            life: id.life(),
            version: 0,
            untouched: Duration::ZERO,
            left: inner.lifetimes.idle,
            remaining: inner.lifetimes.max,
            log_level: None,
            subscriptions: BTreeMap::new(),
            bindings: Bindings::default(),
        };
        inner.metrics.served_without_store();
        Ok(Arc::new(CacheEntry::from_id(record, inner.cache.stamp_now())))
    }

    /// Serves a cached session while the store cannot be read.
    fn serve_cached(
        &self,
        id: &SessionId,
        entry: &Arc<CacheEntry>,
        unavailable: StoreError,
    ) -> Result<Arc<CacheEntry>, SessionError> {
        let inner = &*self.inner;
        if matches!(inner.cache.get(&id.key), CachedSession::Terminated) {
            return Err(SessionError::NotFound);
        }
        // A record that this version cannot read has changed since it was cached.
        if !unavailable.is_corrupt_record()
            && inner.store.is_served_without_reads()
            && entry.is_alive(inner.lifetimes.idle)
        {
            inner.metrics.served_without_store();
            return Ok(Arc::clone(entry));
        }
        Err(unavailable.into())
    }

    /// Loads the session from the store. Concurrent callers share one load.
    async fn load(&self, id: &SessionId) -> LookupOutcome {
        let (lookup, id, key) = (self.clone(), id.clone(), id.key);
        let load = move |permit| {
            let tasks = lookup.inner.tasks.clone();
            let loading = tasks.spawn(async move {
                let read = lookup.inner.recovery.load(&id.key, Some(&id)).await;
                drop(permit);
                read
            });
            let ended = |ended: Result<_, tokio::task::JoinError>| {
                ended.unwrap_or_else(|error| Err(StoreError::unavailable(error.to_string())))
            };
            loading.map(ended).boxed()
        };
        self.inner.loads.join(key, load).await
    }
}
