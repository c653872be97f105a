//! Maps a client session to its backends and back: finds the upstream session to which a client's response, token or
//! event id belongs.

use crate::backend::{Backend, ClientHeaders, SessionScope, UpstreamSession};
use crate::core::RelayedIdKind;
use crate::session::cache::freshness::ReadStamp;
use crate::session::id::event_id;
use crate::session::id::event_id::{BrokenCall, ResumePoint};
use crate::session::id::relayed_id;
use crate::session::id::relayed_id::RelayedId;
use crate::session::id::signed_token::TokenSigner;
use crate::session::id::upstream_tag::UpstreamTag;
use crate::session::record::Record;
use crate::session::recovery::outage::StoreOperation;
use crate::session::store::LoadOutcome;
use crate::session::{Session, SessionError};

/// Why an id or token that the gateway issued no longer leads to an upstream session.
#[derive(Debug, thiserror::Error)]
pub enum NoUpstreamSession {
    /// The backend is no longer configured, or its origin has changed.
    #[error("the backend {0} is not there any more")]
    NoBackend(String),
    /// The upstream session was replaced, and its state is gone.
    #[error("the upstream session at the backend {0} was replaced, and its state is lost")]
    Replaced(String),
    /// The client session cannot be used.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl Session {
    pub(in crate::session) fn token_signer(&self) -> TokenSigner<'_> {
        TokenSigner {
            key: &self.signer,
            server: &self.sessions.inner.server,
            session: &self.key,
        }
    }

    pub(in crate::session) fn streams(&self) -> &crate::session::stream::StreamRegistry {
        &self.sessions.inner.streams
    }

    /// Reads a signed id or token, if it was issued to this session.
    #[must_use]
    pub fn read_relayed_id(&self, kind: RelayedIdKind, text: &str) -> Option<RelayedId> {
        relayed_id::read(&self.token_signer(), kind, text)
    }

    /// Reads an event id that was issued to this session.
    #[must_use]
    pub fn read_event_id(&self, id: &[u8]) -> Option<ResumePoint> {
        event_id::read(&self.token_signer(), id)
    }

    /// Tag that identifies `upstream` among the session's upstream sessions at `backend`.
    #[must_use]
    pub fn upstream_tag(&self, backend: &Backend, upstream: &UpstreamSession) -> Option<UpstreamTag> {
        let generation = if backend.shares_session() {
            let shared = backend.shared_session()?;
            (shared.initialize_result.session == *upstream).then_some(shared.number)?
        } else if backend.session_scope() == SessionScope::ProcessLocal {
            backend.local_session_number(upstream)?
        } else {
            let record = self.record();
            let bound = record.bindings.get(backend.name().as_str());
            let bound = bound.filter(|bound| bound.origin == backend.origin() && bound.session == *upstream);
            match bound {
                Some(bound) => bound.generation,
                None => self.provisional_generation(backend, upstream)?,
            }
        };
        let tag = UpstreamTag::new(&self.token_signer(), backend.origin(), upstream, generation);
        Some(tag)
    }

    /// All of the session's own upstream sessions, without shared ones, with the client's headers to send to each.
    #[must_use]
    pub fn bound(&self, headers: &ClientHeaders) -> Vec<(Backend, UpstreamSession)> {
        let record = self.record();
        let catalog = self.sessions.inner.core.catalog();
        let bound = record.bindings.iter().filter_map(|(name, binding)| {
            let backend = catalog.backend(name)?;
            (backend.origin() == binding.origin && !backend.shares_session())
                .then(|| (backend.on_behalf_of(headers), binding.session.clone()))
        });
        let provisional = self.sessions.inner.provisional.of(&self.key);
        let local = self.sessions.inner.sse_sessions.of(&self.key).into_iter();
        let local = local.map(|(backend, upstream)| (backend.on_behalf_of(headers), upstream));
        bound.chain(provisional).chain(local).collect()
    }

    /// Finds the upstream session at backend `name` with this `tag`.
    ///
    /// # Errors
    /// The upstream session is no longer in use.
    pub async fn upstream(
        &self,
        name: &str,
        tag: UpstreamTag,
        headers: &ClientHeaders,
    ) -> Result<(Backend, UpstreamSession), NoUpstreamSession> {
        let backend = self.sessions.inner.core.catalog().backend(name);
        let backend = backend.ok_or_else(|| NoUpstreamSession::NoBackend(name.to_owned()))?;
        let backend = backend.on_behalf_of(headers);
        if backend.shares_session() {
            let shared = backend
                .shared_session()
                .map(|shared| shared.initialize_result.session);
            let wanted = shared.filter(|shared| self.upstream_tag(&backend, shared) == Some(tag));
            let replaced = || NoUpstreamSession::Replaced(name.to_owned());
            return wanted.map(|upstream| (backend, upstream)).ok_or_else(replaced);
        }
        if backend.session_scope() == SessionScope::ProcessLocal {
            let open = self.sessions.inner.sse_sessions.get(&self.key, &backend);
            let wanted = open.filter(|open| self.upstream_tag(&backend, open) == Some(tag));
            let replaced = || NoUpstreamSession::Replaced(name.to_owned());
            return wanted.map(|upstream| (backend, upstream)).ok_or_else(replaced);
        }
        let wanted = || {
            let record = self.record();
            let bound = record.bindings.get(name);
            let bound = bound.filter(|bound| bound.origin == backend.origin());
            let bound = bound.map(|bound| (bound.session.clone(), bound.generation));
            let provisional = self.sessions.inner.provisional.used(&self.key, &backend);
            let provisional = provisional
                .into_iter()
                .map(|pending| (pending.session, pending.expected + 1));
            let (signer, origin) = (self.token_signer(), backend.origin());
            bound
                .into_iter()
                .chain(provisional)
                .find(|(upstream, generation)| {
                    UpstreamTag::new(&signer, origin, upstream, *generation) == tag
                })
                .map(|(upstream, _)| upstream)
        };
        if let Some(upstream) = wanted() {
            return Ok((backend, upstream));
        }
        // The cached record may be older than the binding.
        self.reload().await?;
        match wanted() {
            Some(upstream) => Ok((backend, upstream)),
            None => Err(NoUpstreamSession::Replaced(name.to_owned())),
        }
    }

    /// Finds the upstream session of a call whose response stream broke.
    ///
    /// # Errors
    /// As [`Self::upstream`].
    pub async fn upstream_of_call(
        &self,
        call: &BrokenCall,
        headers: &ClientHeaders,
    ) -> Result<(Backend, UpstreamSession), NoUpstreamSession> {
        self.upstream(&call.backend, call.upstream, headers).await
    }

    /// Reloads the record from the store.
    pub(in crate::session) async fn reload(&self) -> Result<(), SessionError> {
        let inner = &*self.sessions.inner;
        let stamp = inner.freshness.stamp_now();
        match self
            .sessions
            .observed(StoreOperation::Load, inner.store.load(&self.key).await)?
        {
            LoadOutcome::Gone => match self.sessions.resolve_missing(&self.key, None).await? {
                Some(_) => Ok(()),
                None => Err(SessionError::NotFound),
            },
            LoadOutcome::Found(record) => {
                match self.sessions.accept_loaded(&self.key, record, stamp).await? {
                    Some(entry) => {
                        let record = Record::clone(&entry.record());
                        self.update_record(record, stamp)
                    }
                    None => Err(SessionError::NotFound),
                }
            }
        }
    }

    /// Caches `record`, which was read at `stamp`.
    pub(in crate::session) fn update_record(
        &self,
        record: Record,
        stamp: ReadStamp,
    ) -> Result<(), SessionError> {
        self.entry.update(record.clone(), stamp);
        let known = self.sessions.inner.cache.insert(&self.key, record, stamp);
        known.map(drop).ok_or(SessionError::NotFound)
    }
}
