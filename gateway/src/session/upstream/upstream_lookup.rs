//! From a session to its backends and back: where an answer of the client belongs, and by which id it is found.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::value::RawValue;

use crate::backend::{Backend, UpstreamSession};
use crate::core::RoutedCall;
use crate::session::cache::freshness::ReadStamp;
use crate::session::id::event_id;
use crate::session::id::event_id::{BrokenCall, ResumePoint};
use crate::session::id::relayed_id;
use crate::session::id::relayed_id::{RelayedId, RelayedIdKind};
use crate::session::id::signed_token::TokenSigner;
use crate::session::id::upstream_tag::UpstreamTag;
use crate::session::record::Record;
use crate::session::recovery::outage::StoreOperation;
use crate::session::store::LoadOutcome;
use crate::session::{Session, SessionError};

/// Why a text that the gateway made leads nowhere any more.
#[derive(Debug, thiserror::Error)]
pub enum NoUpstreamSession {
    /// The backend is not configured any more, or is somewhere else now.
    #[error("the backend {0} is not there any more")]
    NoBackend(String),
    /// The upstream session was replaced: the backend has forgotten what it said in it.
    #[error("the session at the backend {0} was replaced by another; what belonged to it is lost")]
    Replaced(String),
    /// The client's session cannot be read.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl Session {
    /// The same session, for a request with `headers`, of which those called `names` may be passed on to backends.
    #[must_use]
    pub fn with_headers(mut self, headers: &HeaderMap, names: &[HeaderName]) -> Self {
        let mut passed = HeaderMap::new();
        for name in names {
            for value in headers.get_all(name) {
                passed.append(name.clone(), value.clone());
            }
        }
        self.client_headers = (!passed.is_empty()).then(|| Arc::new(passed));
        self
    }

    /// The backend as this request reaches it.
    pub(in crate::session) fn reach(&self, backend: Backend) -> Backend {
        match &self.client_headers {
            Some(headers) => backend.on_behalf_of(headers),
            None => backend,
        }
    }

    /// The request on its way to the backend as this session reaches it.
    #[must_use]
    pub fn reached(&self, routed: RoutedCall) -> RoutedCall {
        RoutedCall {
            message: self.with_progress_token(&routed.backend, routed.message),
            backend: self.reach(routed.backend),
            deadline: routed.deadline,
        }
    }

    pub(in crate::session) fn seal(&self) -> TokenSigner<'_> {
        TokenSigner {
            key: &self.signer,
            server: &self.sessions.inner.server,
            session: &self.key,
        }
    }

    pub(in crate::session) fn streams(&self) -> &crate::session::stream::StreamRegistry {
        &self.sessions.inner.streams
    }

    /// The JSON that stands for `original`, the id or progress token of a request that `backend` sent in `upstream`. `None` when the
    /// session has another upstream session there by now, so that an answer would find nobody.
    #[must_use]
    pub fn mint(
        &self,
        kind: RelayedIdKind,
        backend: &Backend,
        upstream: &UpstreamSession,
        original: &RawValue,
    ) -> Option<String> {
        let tag = self.upstream_tag(backend, upstream)?;
        relayed_id::mint(&self.seal(), kind, backend.name().as_str(), tag, original)
    }

    /// What `text` stands for, if it was minted for this session.
    #[must_use]
    pub fn minted(&self, kind: RelayedIdKind, text: &str) -> Option<RelayedId> {
        relayed_id::read(&self.seal(), kind, text)
    }

    /// The event id for the place of the call `request` behind `event`, if it can have one.
    #[must_use]
    pub fn event_id_of_call(
        &self,
        backend: &Backend,
        upstream: &UpstreamSession,
        request: &RawValue,
        event: Option<&HeaderValue>,
    ) -> Option<String> {
        let tag = self.upstream_tag(backend, upstream)?;
        event_id::of_call(&self.seal(), backend.name().as_str(), tag, request, event)
    }

    /// What the client wants to go on with, if `id` was given in this session.
    #[must_use]
    pub fn resume(&self, id: &[u8]) -> Option<ResumePoint> {
        event_id::read(&self.seal(), id)
    }

    /// Which of the session's upstream sessions at `backend` this is.
    #[must_use]
    pub fn upstream_tag(&self, backend: &Backend, upstream: &UpstreamSession) -> Option<UpstreamTag> {
        let generation = if backend.shares_session() {
            let shared = backend.shared_session()?;
            (shared.greeting.session == *upstream).then_some(shared.number)?
        } else if backend.has_streams_for_sessions() {
            backend.stream_number(upstream)?
        } else {
            let record = self.record();
            let bound = record.bindings.get(backend.name().as_str());
            let bound = bound.filter(|bound| bound.origin == backend.origin() && bound.session == *upstream);
            match bound {
                Some(bound) => bound.generation,
                None => self.provisional_generation(backend, upstream)?,
            }
        };
        let tag = UpstreamTag::new(&self.seal(), backend.origin(), upstream, generation);
        Some(tag)
    }

    /// Every backend that the session has an upstream session of its own at.
    #[must_use]
    pub fn bound(&self) -> Vec<(Backend, UpstreamSession)> {
        let record = self.record();
        let catalog = self.sessions.inner.core.catalog();
        let bound = record.bindings.iter().filter_map(|(name, binding)| {
            let backend = catalog.backend(name)?;
            (backend.origin() == binding.origin && !backend.shares_session())
                .then(|| (self.reach(backend), binding.session.clone()))
        });
        let provisional = self.sessions.inner.provisional.of(&self.key);
        let local = self.sessions.inner.local.of(&self.key).into_iter();
        let local = local.map(|(backend, upstream)| (self.reach(backend), upstream));
        bound.chain(provisional).chain(local).collect()
    }

    /// The upstream session at the backend `name` that `tag` names.
    ///
    /// # Errors
    /// When it is not the one in use.
    pub async fn upstream(
        &self,
        name: &str,
        tag: UpstreamTag,
    ) -> Result<(Backend, UpstreamSession), NoUpstreamSession> {
        let backend = self.sessions.inner.core.catalog().backend(name);
        let backend = backend.ok_or_else(|| NoUpstreamSession::NoBackend(name.to_owned()))?;
        let backend = self.reach(backend);
        if backend.shares_session() {
            let shared = backend.shared_session().map(|shared| shared.greeting.session);
            let wanted = shared.filter(|shared| self.upstream_tag(&backend, shared) == Some(tag));
            let replaced = || NoUpstreamSession::Replaced(name.to_owned());
            return wanted.map(|upstream| (backend, upstream)).ok_or_else(replaced);
        }
        if backend.has_streams_for_sessions() {
            let open = self.sessions.inner.local.get(&self.key, &backend);
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
            let (seal, origin) = (self.seal(), backend.origin());
            bound
                .into_iter()
                .chain(provisional)
                .find(|(upstream, generation)| UpstreamTag::new(&seal, origin, upstream, *generation) == tag)
                .map(|(upstream, _)| upstream)
        };
        if let Some(upstream) = wanted() {
            return Ok((backend, upstream));
        }
        // The record may be older than the binding.
        self.reload().await?;
        match wanted() {
            Some(upstream) => Ok((backend, upstream)),
            None => Err(NoUpstreamSession::Replaced(name.to_owned())),
        }
    }

    /// The backend and the upstream session of a call whose stream broke.
    ///
    /// # Errors
    /// As [`Self::upstream`].
    pub async fn upstream_of_call(
        &self,
        call: &BrokenCall,
    ) -> Result<(Backend, UpstreamSession), NoUpstreamSession> {
        self.upstream(&call.backend, call.upstream).await
    }

    /// Reads the record again.
    pub(in crate::session) async fn reload(&self) -> Result<(), SessionError> {
        let inner = &*self.sessions.inner;
        let reading = inner.proof.stamp_now();
        match self
            .sessions
            .observed(StoreOperation::Load, inner.store.load(&self.key).await)?
        {
            LoadOutcome::Gone => match self.sessions.missing(&self.key, None).await? {
                Some(_) => Ok(()),
                None => Err(SessionError::NotFound),
            },
            LoadOutcome::Found(record) => match self.sessions.found(&self.key, record, reading).await? {
                Some(entry) => {
                    let record = Record::clone(&entry.record());
                    self.know(record, reading)
                }
                None => Err(SessionError::NotFound),
            },
        }
    }

    /// Takes over what the store said at `reading`.
    pub(in crate::session) fn know(&self, record: Record, reading: ReadStamp) -> Result<(), SessionError> {
        self.entry.update(record.clone(), reading);
        let known = self.sessions.inner.cache.put(&self.key, record, reading);
        known.map(drop).ok_or(SessionError::NotFound)
    }
}
