//! Rewrites one message of a backend for the client.
//!
//! Two backends may use the same request ids, progress tokens and elicitation ids, and the client's response
//! may reach any replica. These ids are therefore replaced by signed ids that name their backend. All other
//! bytes stay as they are. A notification passes only if it concerns its own backend: a call that the backend
//! runs, identified by the progress token of the call, or a resource that the backend has.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem;
use serde_json::value::RawValue;
use vmcp_crds::config::Capability;

use crate::backend::{Backend, BackendError, ListKind, MessageRole, UpstreamSession};
use crate::catalog::is_list_changed;
use crate::config::HotSettings;
use crate::core::{Caller, Core, IssuedIds, RelayedIdKind};
use crate::mcp::correlation;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::{Message, Outcome, Request, Response};
use crate::mcp::splice::{splice, splice_all};
use crate::telemetry::request_id::CurrentRequestId;

/// Finds the code of an error that names elicitations. It may stand anywhere in a message.
static ELICITATION_REQUIRED: LazyLock<memmem::Finder<'static>> =
    LazyLock::new(|| memmem::Finder::new(b"-32042"));

/// The origin of a message, the backend and its upstream session, and the caller that gets it.
pub(super) struct MessageSource<'a, C> {
    pub(super) core: &'a Core,
    /// The hot configuration in use for this message.
    pub(super) hot: &'a HotSettings,
    pub(super) caller: &'a C,
    pub(super) backend: &'a Backend,
    pub(super) upstream: &'a UpstreamSession,
}

/// The outcome of rewriting a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RewrittenMessage {
    /// The response that the stream waits for.
    Response(Bytes),
    /// Another message for the client.
    Other(Bytes),
    /// The message must be meant as the response, but is malformed.
    InvalidResponse(BackendError),
    /// An unreadable message, which the client does not get.
    Unreadable(BackendError),
    /// The client gets nothing: the message is for the gateway, or is dropped.
    Dropped,
}

/// Rewrites the elicitation ids in `answer`, a response of `backend`, if it is an error that names elicitations.
pub(super) fn rewrite_elicitation_ids(caller: &impl IssuedIds, backend: &Backend, answer: Bytes) -> Bytes {
    // Most answers do not contain the code, and the search is cheaper than the parser.
    if ELICITATION_REQUIRED.find(&answer).is_none() {
        return answer;
    }
    let replaced = || {
        let response = Response::parse(&answer).ok()?;
        let Outcome::Error(error) = response.outcome else {
            return None;
        };
        let ids = correlation::required_elicitations(error).into_iter();
        let ids: Vec<_> = ids
            .filter_map(|id| Some((id, caller.elicitation_id(backend, id)?)))
            .collect();
        let parts: Vec<_> = ids.iter().map(|(id, own)| (id.get(), own.as_bytes())).collect();
        splice_all(&answer, &parts)
    };
    match replaced() {
        Some(replaced) => backend.account().count(replaced),
        None => answer,
    }
}

impl<C: Caller> MessageSource<'_, C> {
    /// Rewrites `data`. `awaited` is the id of the request that the stream waits for, if there is one.
    pub(super) fn rewrite_message(&self, data: &Bytes, awaited: Option<&RawValue>) -> RewrittenMessage {
        match Message::from_backend(data) {
            Ok(Message::Response(_)) => match awaited {
                Some(id) => self.response(data, id),
                None => self.drop_message("response to a request that this stream does not have"),
            },
            Ok(Message::Notification { method, .. }) if is_list_changed(&method) => {
                self.list_changed(&method)
            }
            Ok(Message::Notification { method, params }) => self.notification(data, &method, params),
            Ok(Message::Request(request)) => match self.request(data, &request) {
                Some(data) => RewrittenMessage::Other(data),
                None => self.reject_request(&request),
            },
            Err(fault) => match awaited {
                Some(id) => self.response(data, id),
                None => self.drop_message(&self.backend.hide_values_in(&fault.message)),
            },
        }
    }

    /// A list of the backend has changed. Clients are notified if the merged catalog changes as a result. A
    /// session that has lists of its own is notified at once.
    fn list_changed(&self, method: &str) -> RewrittenMessage {
        self.core.catalog().refresh(self.backend.name());
        let (kinds, capability) = match method {
            "notifications/tools/list_changed" => (&[ListKind::Tools][..], Capability::Tools),
            "notifications/prompts/list_changed" => (&[ListKind::Prompts][..], Capability::Prompts),
            _ => (
                &[ListKind::Resources, ListKind::Templates][..],
                Capability::Resources,
            ),
        };
        let is_own = self.caller.list_has_changed(self.backend, kinds);
        if !is_own {
            self.backend.note_client_list_change();
        }
        if is_own && self.hot.aggregation.offers(capability) {
            return RewrittenMessage::Other(jsonrpc::notification(method));
        }
        RewrittenMessage::Dropped
    }

    /// A notification of the backend, if it concerns its own calls or resources.
    fn notification(&self, data: &Bytes, method: &str, params: Option<&RawValue>) -> RewrittenMessage {
        match method {
            "notifications/cancelled" => self.forward_or_drop(
                self.cancelled(data, params),
                "cancellation without a valid request id",
            ),
            "notifications/progress" => {
                self.forward_or_drop(self.progress(data, params), "progress of an unknown call")
            }
            "notifications/elicitation/complete" => {
                let id = correlation::elicitation_id(params).ok().flatten();
                let completed = id.and_then(|id| {
                    let own = self.caller.elicitation_id(self.backend, id)?;
                    splice(data, id.get(), own.as_bytes())
                });
                self.forward_or_drop(completed, "unknown elicitation id")
            }
            "notifications/resources/updated" if !self.is_own_resource(params) => {
                self.drop_message("update of a resource that this backend does not have")
            }
            _ => RewrittenMessage::Other(data.clone()),
        }
    }

    fn progress(&self, data: &Bytes, params: Option<&RawValue>) -> Option<Bytes> {
        let token = correlation::reported_token(params).ok()?;
        let own = self.caller.progress_token(self.backend, token)?;
        splice(data, token.get(), own.get().as_bytes())
    }

    /// Whether the changed resource belongs to the backend, as far as known, or was subscribed to there.
    fn is_own_resource(&self, params: Option<&RawValue>) -> bool {
        let Ok(uri) = correlation::updated_uri(params) else {
            return false;
        };
        let catalog = self.core.catalog();
        let has = |backend: Backend| backend.name() == self.backend.name();
        self.caller.is_subscribed(self.backend, &uri)
            || self.caller.is_listed(self.backend, &uri)
            || match catalog.resource(&uri) {
                Some(backend) => has(backend),
                // No other backend owns the resource, and this backend's resources are not known yet.
                None => catalog.capabilities(self.backend.name()).is_none(),
            }
    }

    /// A message that is neither request nor notification, on the stream of the request `id`.
    fn response(&self, data: &Bytes, id: &RawValue) -> RewrittenMessage {
        match self.backend.read_message(data, id) {
            MessageRole::Answer(data) => {
                RewrittenMessage::Response(rewrite_elicitation_ids(self.caller, self.backend, data))
            }
            MessageRole::MalformedAnswer(error) => {
                self.log_dropped(&error.to_string());
                RewrittenMessage::InvalidResponse(error)
            }
            MessageRole::Unreadable(error) => {
                self.log_dropped(&error.to_string());
                RewrittenMessage::Unreadable(error)
            }
            MessageRole::Other => self.drop_message("neither request nor notification"),
        }
    }

    fn request(&self, data: &Bytes, request: &Request<'_>) -> Option<Bytes> {
        let id = self.issue_relayed_id(RelayedIdKind::Request, request.id)?;
        let mut parts = vec![(request.id.get(), id.as_bytes())];
        let token = correlation::progress_token(request.params).ok()?;
        let issued = match token {
            None => None,
            Some(token) => Some((token, self.issue_relayed_id(RelayedIdKind::Progress, token)?)),
        };
        if let Some((token, issued)) = &issued {
            parts.push((token.get(), issued.as_bytes()));
        }
        let elicitation = match &*request.method {
            "elicitation/create" => correlation::elicitation_id(request.params).ok()?,
            _ => None,
        };
        let elicitation = match elicitation {
            None => None,
            Some(id) => Some((id, self.caller.elicitation_id(self.backend, id)?)),
        };
        if let Some((id, own)) = &elicitation {
            parts.push((id.get(), own.as_bytes()));
        }
        splice_all(data, &parts)
    }

    fn cancelled(&self, data: &Bytes, params: Option<&RawValue>) -> Option<Bytes> {
        let id = correlation::cancelled_id(params).ok()?;
        splice(
            data,
            id.get(),
            self.issue_relayed_id(RelayedIdKind::Request, id)?.as_bytes(),
        )
    }

    fn issue_relayed_id(&self, kind: RelayedIdKind, original: &RawValue) -> Option<String> {
        self.caller
            .sign_relayed_id(kind, self.backend, self.upstream, original)
    }

    /// Answers a backend's request with an error, because the client's response could not be routed back.
    fn reject_request(&self, request: &Request<'_>) -> RewrittenMessage {
        let reason =
            "The session in which this was asked was replaced by another; its client cannot be asked";
        self.core
            .decline(self.backend, self.upstream.clone(), request.id, reason);
        self.drop_message("the response could not be routed back")
    }

    fn forward_or_drop(&self, message: Option<Bytes>, otherwise: &str) -> RewrittenMessage {
        message.map_or_else(|| self.drop_message(otherwise), RewrittenMessage::Other)
    }

    fn drop_message(&self, reason: &str) -> RewrittenMessage {
        self.log_dropped(reason);
        RewrittenMessage::Dropped
    }

    fn log_dropped(&self, reason: &str) {
        tracing::warn!(request_id = %CurrentRequestId, backend = %self.backend.name(), reason, "dropped a backend message");
    }
}
