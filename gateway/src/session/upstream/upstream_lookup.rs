//! Maps a client session to its backends and back: finds the upstream session to which a client's response, token or
//! event id belongs.

use super::UpstreamSessions;
use crate::backend::{Backend, ClientHeaders, SessionScope, UpstreamSession};
use crate::session::SessionError;
use crate::session::client_session::ClientSession;
use crate::session::id::upstream_tag::UpstreamTag;
use crate::session::record::Record;

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

impl UpstreamSessions {
    /// Tag that identifies `upstream` among the session's upstream sessions at `backend`.
    pub(in crate::session) fn tag(
        &self,
        client: &ClientSession,
        backend: &Backend,
        upstream: &UpstreamSession,
    ) -> Option<UpstreamTag> {
        let generation = if backend.shares_session() {
            let shared = backend.shared_session()?;
            (shared.initialize_result.session == *upstream).then_some(shared.number)?
        } else if backend.session_scope() == SessionScope::ProcessLocal {
            backend.local_session_number(upstream)?
        } else {
            let record = client.record();
            let bound = record.bindings.get(backend.name().as_str());
            let bound = bound.filter(|bound| bound.origin == backend.origin() && bound.session == *upstream);
            match bound {
                Some(bound) => bound.generation,
                None => self.provisional_generation(client, backend, upstream)?,
            }
        };
        let signer = client.token_signer(&self.inner.server);
        let tag = UpstreamTag::new(&signer, backend.origin(), upstream, generation);
        Some(tag)
    }

    /// The upstream sessions that a record names, at backends that are still configured with the same origin.
    pub(in crate::session) fn of_record(&self, record: &Record) -> Vec<(Backend, UpstreamSession)> {
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

    /// All of the session's own upstream sessions, without shared ones, with the client's headers to send to each.
    pub(in crate::session) fn bound(
        &self,
        client: &ClientSession,
        headers: &ClientHeaders,
    ) -> Vec<(Backend, UpstreamSession)> {
        let inner = &*self.inner;
        let (record, catalog) = (client.record(), inner.core.catalog());
        let bound = record.bindings.iter().filter_map(|(name, binding)| {
            let backend = catalog.backend(name)?;
            (backend.origin() == binding.origin && !backend.shares_session())
                .then(|| (backend.on_behalf_of(headers), binding.session.clone()))
        });
        let provisional = inner.upstreams.provisional.of(&client.key);
        let local = inner.upstreams.sse_connections.of(&client.key).into_iter();
        let local = local.map(|(backend, upstream)| (backend.on_behalf_of(headers), upstream));
        bound.chain(provisional).chain(local).collect()
    }

    /// Finds the upstream session at backend `name` with this `tag`.
    ///
    /// # Errors
    /// The upstream session is no longer in use.
    pub(in crate::session) async fn find(
        &self,
        client: &ClientSession,
        name: &str,
        tag: UpstreamTag,
        headers: &ClientHeaders,
    ) -> Result<(Backend, UpstreamSession), NoUpstreamSession> {
        let inner = &*self.inner;
        let backend = inner.core.catalog().backend(name);
        let backend = backend.ok_or_else(|| NoUpstreamSession::NoBackend(name.to_owned()))?;
        let backend = backend.on_behalf_of(headers);
        if backend.shares_session() {
            let shared = backend
                .shared_session()
                .map(|shared| shared.initialize_result.session);
            let wanted = shared.filter(|shared| self.tag(client, &backend, shared) == Some(tag));
            let replaced = || NoUpstreamSession::Replaced(name.to_owned());
            return wanted.map(|upstream| (backend, upstream)).ok_or_else(replaced);
        }
        if backend.session_scope() == SessionScope::ProcessLocal {
            let open = inner.upstreams.sse_connections.get(&client.key, &backend);
            let wanted = open.filter(|open| self.tag(client, &backend, open) == Some(tag));
            let replaced = || NoUpstreamSession::Replaced(name.to_owned());
            return wanted.map(|upstream| (backend, upstream)).ok_or_else(replaced);
        }
        let wanted = || {
            let record = client.record();
            let bound = record.bindings.get(name);
            let bound = bound.filter(|bound| bound.origin == backend.origin());
            let bound = bound.map(|bound| (bound.session.clone(), bound.generation));
            let provisional = inner.upstreams.provisional.used(&client.key, &backend);
            let provisional = provisional
                .into_iter()
                .map(|pending| (pending.session, pending.expected + 1));
            let (signer, origin) = (client.token_signer(&inner.server), backend.origin());
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
        self.reload(client).await?;
        match wanted() {
            Some(upstream) => Ok((backend, upstream)),
            None => Err(NoUpstreamSession::Replaced(name.to_owned())),
        }
    }
}
