//! Finds the session that a session id names.
//!
//! A fresh cache entry ([`crate::session::cache::freshness`]) is used at once. Otherwise the store is asked, by
//! single flight: concurrent requests for one session load it once. A missing record may be lost rather than gone
//! ([`crate::session::recovery`]). While the store does not answer, a cached session is served for a limited time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::Instant;

use super::cache::CachedSession;
use super::id::SessionId;
use super::record::Record;
use super::store::{LoadOutcome, StoreError};
use super::{Session, SessionError, Sessions};
use crate::core::{Caller as _, Principal};
use crate::runtime::clock;
use crate::session::cache::cache_entry::CacheEntry;
use crate::session::recovery::outage::{StoreFailure, StoreOperation};
use crate::session::upstream::bindings::Bindings;

/// Outcome of a lookup: `None` if the session is not alive.
pub(super) type LookupOutcome = Result<Option<Arc<CacheEntry>>, StoreError>;

impl Sessions {
    /// Returns the live session of `principal` that a client names with `id`.
    ///
    /// # Errors
    /// There is no such session, or the store cannot say. An id that was not signed for this server and this
    /// principal is refused without a read of the store.
    pub async fn find(&self, id: &[u8], principal: &Principal) -> Result<Session, SessionError> {
        let (id, signer) = self.verify(id, principal)?;
        let entry = self.entry(&id).await?;
        if entry.record().principal_tag != id.principal_tag {
            return Err(SessionError::NotFound);
        }
        let session = Session {
            sessions: self.clone(),
            key: id.key,
            signer,
            entry,
        };
        session.record_use();
        Ok(session)
    }

    async fn entry(&self, id: &SessionId) -> Result<Arc<CacheEntry>, SessionError> {
        let inner = &*self.inner;
        let known = match inner.cache.get(&id.key) {
            CachedSession::Terminated => return Err(SessionError::NotFound),
            CachedSession::Entry(entry) => Some(entry),
            CachedSession::Unknown => None,
        };
        if let Some(entry) = &known {
            let down = inner.outage.current();
            let is_trusted = down.as_ref().is_none_or(|down| !down.invalidates_freshness());
            if is_trusted && entry.is_fresh(&inner.freshness) {
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
    /// Rules: the outage is confirmed ([`StoreFailure::is_confirmed`]), a late answer is not enough; the end that the
    /// id names has not passed; only backends at which no state can be lost are called ([`Session::provisional`],
    /// [`Session::connect`]). The entry is not cached, so the store is asked as soon as it answers again.
    ///
    /// Known gap: a session that was terminated or expired earlier may be served to its own principal until the store
    /// answers or the grace period ends. The id's end is compared with this machine's clock.
    fn serve_from_id(
        &self,
        id: &SessionId,
        unavailable: StoreError,
    ) -> Result<Arc<CacheEntry>, SessionError> {
        let inner = &*self.inner;
        let is_out = inner.outage.current().is_some_and(|down| down.is_confirmed());
        let is_over = clock::unix_seconds() >= u64::from(id.end);
        // The store has the record, but this version cannot read it.
        if unavailable.is_corrupt_record() || !is_out || is_over || !self.serves_without_reads() {
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
            left: inner.settings.lifetimes.idle,
            remaining: inner.settings.lifetimes.max,
            log_level: None,
            subscriptions: BTreeMap::new(),
            bindings: Bindings::default(),
        };
        inner.metrics.served_without_store();
        Ok(Arc::new(CacheEntry::from_id(record, inner.freshness.stamp_now())))
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
            && self.serves_without_reads()
            && entry.is_alive(inner.settings.lifetimes.idle)
        {
            inner.metrics.served_without_store();
            return Ok(Arc::clone(entry));
        }
        Err(unavailable.into())
    }

    /// Whether sessions are served while the store refuses or fails some operations.
    pub(super) fn serves_without_store(&self) -> bool {
        self.serves_since(|down| Some(down.since))
    }

    /// Whether cached sessions are served while the store cannot be read.
    fn serves_without_reads(&self) -> bool {
        self.serves_since(|down| down.reads)
    }

    fn serves_since(&self, began: fn(&StoreFailure) -> Option<Instant>) -> bool {
        let settings = &self.inner.settings;
        let since = self.inner.outage.current().and_then(|down| began(&down));
        settings.serve_in_outage && since.is_none_or(|since| since.elapsed() < settings.outage_grace)
    }

    /// Loads the session from the store. Concurrent callers share one load.
    async fn load(&self, id: &SessionId) -> LookupOutcome {
        let (sessions, id, key) = (self.clone(), id.clone(), id.key);
        let load = move |permit| {
            let tasks = sessions.inner.tasks.clone();
            let loading = tasks.spawn(async move {
                let read = sessions.load_now(&id).await;
                drop(permit);
                read
            });
            let ended = |ended: Result<_, tokio::task::JoinError>| {
                ended.unwrap_or_else(|error| Err(StoreError::unavailable(error.to_string())))
            };
            loading.map(ended).boxed()
        };
        self.inner.lookups.join(key, load).await
    }

    async fn load_now(&self, id: &SessionId) -> LookupOutcome {
        let inner = &*self.inner;
        let stamp = inner.freshness.stamp_now();
        match self.observed(StoreOperation::Load, inner.store.load(&id.key).await)? {
            LoadOutcome::Found(record) => self.accept_loaded(&id.key, record, stamp).await,
            LoadOutcome::Gone => self.resolve_missing(&id.key, Some(id)).await,
        }
    }
}
