//! From a session id to the session.
//!
//! A session that is remembered, and is known to be as it is remembered ([`crate::session::cache::freshness`]), is used at once. Otherwise the store is
//! asked, by one for all who want the same session at the same moment. What the store does not have may have been lost rather than
//! ended ([`crate::session::recovery`]). When the store does not answer, a session that is remembered is served for a while.

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
use crate::core::Principal;
use crate::runtime::clock;
use crate::session::cache::cache_entry::CacheEntry;
use crate::session::recovery::outage::{StoreFailure, StoreOperation};
use crate::session::upstream::bindings::Bindings;

/// What came of reading a session: `None` when it does not live.
pub(super) type LookupOutcome = Result<Option<Arc<CacheEntry>>, StoreError>;

impl Sessions {
    /// The session that a client names with `id`, if it is a live session of `principal`.
    ///
    /// # Errors
    /// When it is not, or whether it is cannot be known. An id that was not signed for this server and this principal is
    /// refused without asking the store.
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
            client_headers: None,
        };
        session.in_use();
        Ok(session)
    }

    async fn entry(&self, id: &SessionId) -> Result<Arc<CacheEntry>, SessionError> {
        let inner = &*self.inner;
        let known = match inner.cache.get(&id.key) {
            CachedSession::Ended => return Err(SessionError::NotFound),
            CachedSession::Entry(entry) => Some(entry),
            CachedSession::Nothing => None,
        };
        if let Some(entry) = &known {
            let down = inner.outage.now();
            let is_trusted = down.as_ref().is_none_or(|down| !down.outdates_proofs());
            if is_trusted && entry.is_valid(&inner.proof) {
                return Ok(Arc::clone(entry));
            }
            // Nobody waits for a store of which it is known that it does not answer.
            if let Some(down) = down.filter(|down| down.reads.is_some()) {
                return self.without_store(id, entry, down.error.clone());
            }
        }
        match (self.read(id).await, known) {
            (Ok(Some(entry)), _) => Ok(entry),
            (Ok(None), _) => Err(SessionError::NotFound),
            (Err(unavailable), Some(entry)) => self.without_store(id, &entry, unavailable),
            (Err(unavailable), None) => self.known_by_its_id(id, unavailable),
        }
    }

    /// A session of which this process knows nothing but the id, so that a process that starts in an outage serves something. The rule:
    /// it is served once the store is known to be out ([`StoreFailure::is_confirmed`]) and not behind a late answer, until the end that the id
    /// names, and only at backends where nothing can be lost ([`Session::provisional`], [`Session::connect`]). It is not remembered, so
    /// that the store is asked as soon as it answers.
    ///
    /// What this leaves open: a session that was terminated, or has expired, before its id's end may be served here to its own principal
    /// until the store answers, or the grace is over. The id's end is compared with this machine's clock, which is right by as much as
    /// that clock is.
    fn known_by_its_id(
        &self,
        id: &SessionId,
        unavailable: StoreError,
    ) -> Result<Arc<CacheEntry>, SessionError> {
        let inner = &*self.inner;
        let is_out = inner.outage.now().is_some_and(|down| down.is_confirmed());
        let is_over = clock::unix_seconds() >= u64::from(id.end);
        // A record that cannot be read here is there, and says what this process does not know.
        if unavailable.is_of_record() || !is_out || is_over || !self.serves_without_reads() {
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
        Ok(Arc::new(CacheEntry::of_id(record, inner.proof.stamp_now())))
    }

    /// A session that is remembered, while the store cannot be asked.
    fn without_store(
        &self,
        id: &SessionId,
        entry: &Arc<CacheEntry>,
        unavailable: StoreError,
    ) -> Result<Arc<CacheEntry>, SessionError> {
        let inner = &*self.inner;
        if matches!(inner.cache.get(&id.key), CachedSession::Ended) {
            return Err(SessionError::NotFound);
        }
        // A record that cannot be read here has changed since it was remembered.
        if !unavailable.is_of_record()
            && self.serves_without_reads()
            && entry.lives_on(inner.settings.lifetimes.idle)
        {
            inner.metrics.served_without_store();
            return Ok(Arc::clone(entry));
        }
        Err(unavailable.into())
    }

    /// Whether sessions are served although the store refuses what is asked of it.
    pub(super) fn serves_without_store(&self) -> bool {
        self.serves_since(|down| Some(down.since))
    }

    /// Whether sessions are served although the store does not say whether they live.
    fn serves_without_reads(&self) -> bool {
        self.serves_since(|down| down.reads)
    }

    fn serves_since(&self, began: fn(&StoreFailure) -> Option<Instant>) -> bool {
        let settings = &self.inner.settings;
        let since = self.inner.outage.now().and_then(|down| began(&down));
        settings.serve_in_outage && since.is_none_or(|since| since.elapsed() < settings.outage_grace)
    }

    /// Asks the store for the session, or joins those who are asking.
    async fn read(&self, id: &SessionId) -> LookupOutcome {
        let (sessions, id, key) = (self.clone(), id.clone(), id.key);
        let reading = move |place| {
            let tasks = sessions.inner.tasks.clone();
            let reading = tasks.spawn(async move {
                let read = sessions.read_now(&id).await;
                drop(place);
                read
            });
            let ended = |ended: Result<_, tokio::task::JoinError>| {
                ended.unwrap_or_else(|error| Err(StoreError::new(error.to_string())))
            };
            reading.map(ended).boxed()
        };
        self.inner.reads.join(key, reading).await
    }

    async fn read_now(&self, id: &SessionId) -> LookupOutcome {
        let inner = &*self.inner;
        let reading = inner.proof.stamp_now();
        match self.observed(StoreOperation::Load, inner.store.load(&id.key).await)? {
            LoadOutcome::Found(record) => self.found(&id.key, record, reading).await,
            LoadOutcome::Gone => self.missing(&id.key, Some(id)).await,
        }
    }
}
