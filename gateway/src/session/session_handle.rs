//! One live client session, as a request holds it.

use std::sync::Arc;

use http::HeaderValue;
use serde_json::value::RawValue;

use super::cache::CachedSession;
use super::client_session::ClientSession;
use super::id::event_id::{BrokenCall, ResumePoint, StreamPositions};
use super::id::relayed_id::RelayedId;
use super::id::session_bound_token::TokenSigner;
use super::id::upstream_tag::UpstreamTag;
use super::id::{elicitation_id, event_id, progress_token, relayed_id};
use super::in_flight::{CancellationTarget, RunningRequest, TooManyRequests};
use super::settings::{self, SettingError};
use super::stream::session_stream::SessionStream;
use super::upstream::upstream_lookup::NoUpstreamSession;
use super::{SessionError, Sessions};
use crate::backend::{Backend, ClientHeaders, ListKind, UpstreamSession};
use crate::catalog::CatalogSnapshot;
use crate::core::{
    CallSubject, Caller, ClientView, IssuedIds, RelayedIdKind, RoutedCall, UpstreamError, UpstreamOpener,
};
use crate::mcp::revision::Revision;

/// Maximum rate at which a session opens streams by GET. A client that reconnects opens one or two.
const STREAMS_PER_SECOND: u32 = 10;

/// A live client session. A cheap-clone handle: what it does is done by the components of the session layer.
#[derive(Clone, Debug)]
pub struct Session {
    sessions: Sessions,
    client: ClientSession,
}

impl Session {
    pub(super) fn new(sessions: Sessions, client: ClientSession) -> Self {
        Self { sessions, client }
    }

    fn components(&self) -> &super::Inner {
        &self.sessions.inner
    }

    fn token_signer(&self) -> TokenSigner<'_> {
        self.client.token_signer(&self.components().server)
    }

    fn tag(&self, backend: &Backend, upstream: &UpstreamSession) -> Option<UpstreamTag> {
        self.components().upstreams.tag(&self.client, backend, upstream)
    }

    /// Registers the request `id` as running in this session, which may have `limit` at a time.
    ///
    /// # Errors
    /// The session has as many running requests as it may.
    pub fn begin(&self, id: &RawValue, limit: usize) -> Result<RunningRequest, TooManyRequests> {
        let (key, local) = (self.client.key, &self.components().local);
        let running = local.in_flight.begin(key, id, limit)?;
        // A termination may have arrived between lookup and registration.
        if matches!(local.cache.get(&key), CachedSession::Terminated) {
            local.in_flight.end(&key);
        }
        Ok(running)
    }

    /// Resumes a call after the event `event_id`, within `limit` running requests. An earlier stream that resumed
    /// after the same event ends.
    ///
    /// # Errors
    /// The session has as many running requests as it may.
    pub fn resume_call(&self, event_id: &[u8], limit: usize) -> Result<RunningRequest, TooManyRequests> {
        let in_flight = &self.components().local.in_flight;
        in_flight.resume(self.client.key, &String::from_utf8_lossy(event_id), limit)
    }

    /// Resolves what a client's `notifications/cancelled` for the request `id` refers to.
    #[must_use]
    pub fn resolve_cancellation(&self, id: &RawValue) -> CancellationTarget {
        let in_flight = &self.components().local.in_flight;
        in_flight.resolve_cancellation(&self.client.key, id)
    }

    /// Whether the rate limit admits another GET stream now.
    #[must_use]
    pub fn can_open_stream(&self) -> bool {
        let rates = &self.components().stream_rates;
        rates.allows(&self.client.key, STREAMS_PER_SECOND)
    }

    /// Opens the session's GET stream, after `positions` if given, and closes the previous one on any replica.
    ///
    /// # Errors
    /// The session has ended. An unavailable store is no error: the stream opens without a claim.
    pub async fn listen(
        &self,
        positions: Option<StreamPositions>,
        headers: &ClientHeaders,
    ) -> Result<SessionStream, SessionError> {
        let inner = self.components();
        let upstreams = inner.upstreams.of(&self.client);
        inner
            .streams
            .open(&self.client, upstreams, positions, headers)
            .await
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

    /// All of the session's own upstream sessions, without shared ones, with the client's headers to send to each.
    #[must_use]
    pub fn bound(&self, headers: &ClientHeaders) -> Vec<(Backend, UpstreamSession)> {
        self.components().upstreams.bound(&self.client, headers)
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
        let upstreams = &self.components().upstreams;
        upstreams.find(&self.client, name, tag, headers).await
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

    /// Sets the minimum level of log messages, in the record and at every backend that supports logging.
    ///
    /// # Errors
    /// The record cannot be changed. A backend that fails is no error.
    pub async fn set_log_level(&self, level: &str, headers: &ClientHeaders) -> Result<(), SettingError> {
        let settings = &self.components().settings;
        settings.set_log_level(&self.client, level, headers).await
    }

    /// Stores a subscription of the client to the resource `uri` of `backend`.
    ///
    /// # Errors
    /// The record cannot be changed, or a limit is reached.
    pub async fn subscribe(&self, backend: &Backend, uri: &str) -> Result<(), SettingError> {
        self.components()
            .settings
            .subscribe(&self.client, backend, uri)
            .await
    }

    /// Removes the client's subscription to the resource `uri`.
    ///
    /// # Errors
    /// The record cannot be changed.
    pub async fn unsubscribe(&self, uri: &str) -> Result<(), SettingError> {
        self.components().settings.unsubscribe(&self.client, uri).await
    }

    /// Name of the backend of the subscribed resource `uri`.
    #[must_use]
    pub fn subscribed_backend(&self, uri: &str) -> Option<String> {
        settings::subscribed_backend(&self.client, uri)
    }
}

impl Caller for Session {
    fn revision(&self) -> Revision {
        self.client.record().revision
    }

    fn prepare_call(&self, routed: RoutedCall, headers: &ClientHeaders) -> RoutedCall {
        let name = routed.backend.name().as_str();
        RoutedCall {
            message: progress_token::sign_in(&self.token_signer(), name, routed.message),
            backend: routed.backend.on_behalf_of(headers),
            deadline: routed.deadline,
        }
    }

    /// The idle deadline is moved in the background, unless it was moved recently.
    fn record_use(&self) {
        let inner = self.components();
        if self
            .client
            .entry
            .record_use(inner.options.lifetimes.touch_every())
        {
            inner.local.pending_touches.add(self.client.key);
        }
    }
}

impl UpstreamOpener for Session {
    async fn open(&self, backend: &Backend) -> Result<UpstreamSession, UpstreamError> {
        self.components().upstreams.open(&self.client, backend).await
    }

    async fn replace(
        &self,
        backend: &Backend,
        lost: &UpstreamSession,
    ) -> Result<UpstreamSession, UpstreamError> {
        self.components()
            .upstreams
            .replace(&self.client, backend, lost)
            .await
    }

    async fn keep_cookies(&self, backend: &Backend, upstream: &UpstreamSession) {
        let upstreams = &self.components().upstreams;
        upstreams.keep_cookies(&self.client, backend, upstream).await;
    }
}

impl IssuedIds for Session {
    fn sign_relayed_id(
        &self,
        kind: RelayedIdKind,
        backend: &Backend,
        upstream: &UpstreamSession,
        original: &RawValue,
    ) -> Option<String> {
        let tag = self.tag(backend, upstream)?;
        relayed_id::sign(&self.token_signer(), kind, backend.name().as_str(), tag, original)
    }

    fn progress_token(&self, backend: &Backend, token: &RawValue) -> Option<Box<RawValue>> {
        progress_token::of_client(&self.token_signer(), backend.name().as_str(), token)
    }

    fn elicitation_id(&self, backend: &Backend, original: &RawValue) -> Option<String> {
        elicitation_id::of(&self.token_signer(), backend.name().as_str(), original)
    }

    fn event_id_of_call(
        &self,
        backend: &Backend,
        upstream: &UpstreamSession,
        request: &RawValue,
        event: Option<&HeaderValue>,
    ) -> Option<String> {
        let tag = self.tag(backend, upstream)?;
        event_id::of_call(&self.token_signer(), backend.name().as_str(), tag, request, event)
    }
}

impl ClientView for Session {
    async fn catalog_to_list(
        &self,
        kind: ListKind,
        goes_on: bool,
        headers: &ClientHeaders,
    ) -> Arc<CatalogSnapshot> {
        let catalogs = &self.components().catalogs;
        catalogs
            .catalog_to_list(&self.client, kind, goes_on, headers)
            .await
    }

    async fn catalog_to_find(
        &self,
        subject: CallSubject,
        params: Option<&RawValue>,
        headers: &ClientHeaders,
    ) -> Arc<CatalogSnapshot> {
        let catalogs = &self.components().catalogs;
        catalogs
            .catalog_to_find(&self.client, subject, params, headers)
            .await
    }

    fn list_has_changed(&self, backend: &Backend, kinds: &[ListKind]) -> bool {
        self.components()
            .catalogs
            .list_has_changed(&self.client, backend, kinds)
    }

    fn is_listed(&self, backend: &Backend, uri: &str) -> bool {
        self.components().catalogs.is_listed(&self.client, backend, uri)
    }

    fn is_subscribed(&self, backend: &Backend, uri: &str) -> bool {
        settings::is_subscribed(&self.client, backend, uri)
    }
}
