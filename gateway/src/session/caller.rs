//! A client session as the caller of operations ([`crate::core::Caller`]).

use std::sync::Arc;

use http::HeaderValue;
use serde_json::value::RawValue;

use super::Session;
use super::id::{elicitation_id, event_id, progress_token, relayed_id};
use crate::backend::{Backend, ClientHeaders, ListKind, UpstreamSession};
use crate::catalog::CatalogSnapshot;
use crate::core::{CallSubject, Caller, ClientView, IssuedIds, RelayedIdKind, RoutedCall};
use crate::mcp::revision::Revision;

impl Caller for Session {
    fn revision(&self) -> Revision {
        self.record().revision
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
        let inner = &*self.sessions.inner;
        if self.entry.record_use(inner.settings.lifetimes.touch_every()) {
            inner.pending_touches.add(self.key);
        }
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
        let tag = self.upstream_tag(backend, upstream)?;
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
        let tag = self.upstream_tag(backend, upstream)?;
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
        Self::catalog_to_list(self, kind, goes_on, headers).await
    }

    async fn catalog_to_find(
        &self,
        subject: CallSubject,
        params: Option<&RawValue>,
        headers: &ClientHeaders,
    ) -> Arc<CatalogSnapshot> {
        Self::catalog_to_find(self, subject, params, headers).await
    }

    fn list_has_changed(&self, backend: &Backend, kinds: &[ListKind]) -> bool {
        Self::list_has_changed(self, backend, kinds)
    }

    fn is_listed(&self, backend: &Backend, uri: &str) -> bool {
        Self::is_listed(self, backend, uri)
    }

    fn is_subscribed(&self, backend: &Backend, uri: &str) -> bool {
        Self::is_subscribed(self, backend, uri)
    }
}
