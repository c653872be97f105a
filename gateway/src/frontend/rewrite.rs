//! One message of a backend, as the client of a stream gets it.
//!
//! Its bytes stay as they are but for ids of the backend's own requests, and progress tokens in them: two backends may use the same, and
//! the client's answer may reach any process. They are replaced by texts that say where they come from, and so are ids of elicitations. Notifications pass when they are
//! about something of the backend's: a call that it runs, by the token that it was given with it, or a resource that it has.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem;
use serde_json::value::RawValue;
use vmcp_crds::config::Capability;

use crate::backend::{self, Backend, BackendError, ListKind, MessageRole, UpstreamSession};
use crate::catalog::is_list_changed;
use crate::core::Core;
use crate::mcp::correlation;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::{Message, Outcome, Request, Response};
use crate::mcp::splice::{splice, splice_all};
use crate::session::{RelayedIdKind, Session};
use crate::telemetry::request_id::CurrentRequestId;

/// Finds the code of an error that names elicitations. It may stand anywhere in an answer.
static ELICITATION_REQUIRED: LazyLock<memmem::Finder<'static>> =
    LazyLock::new(|| memmem::Finder::new(b"-32042"));

/// Where a message comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) core: &'a Core,
    pub(super) session: &'a Session,
    pub(super) backend: &'a Backend,
    pub(super) upstream: &'a UpstreamSession,
}

/// What the client gets of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RewrittenMessage {
    /// The answer that the stream is for.
    Answer(Bytes),
    /// Something else.
    Message(Bytes),
    /// An error: this must have been meant as the answer that the stream is for, and is none.
    NoAnswer(BackendError),
    /// Nothing, and this is why nobody could read it.
    Unreadable(BackendError),
    /// Nothing: it is for the gateway itself, or nobody.
    Nothing,
}

/// An answer of `backend` with the ids of its elicitations as the client of `session` knows them, where it is an error that names some.
pub(super) fn with_own_elicitations(session: &Session, backend: &Backend, answer: Bytes) -> Bytes {
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
            .filter_map(|id| Some((id, session.elicitation_id(backend, id)?)))
            .collect();
        let parts: Vec<_> = ids.iter().map(|(id, own)| (id.get(), own.as_bytes())).collect();
        splice_all(&answer, &parts)
    };
    match replaced() {
        Some(replaced) => backend.account().count(replaced),
        None => answer,
    }
}

impl Source<'_> {
    /// Translates `data`. `awaited` is the request whose answer the stream is for, if there is one.
    pub(super) fn rewrite_message(&self, data: &Bytes, awaited: Option<&RawValue>) -> RewrittenMessage {
        match Message::from_backend(data) {
            Ok(Message::Response(_)) => match awaited {
                Some(id) => self.answer(data, id),
                None => self.dropped("it answers no request of this stream"),
            },
            Ok(Message::Notification { method, .. }) if is_list_changed(&method) => {
                self.list_changed(&method)
            }
            Ok(Message::Notification { method, params }) => self.notification(data, &method, params),
            Ok(Message::Request(request)) => match self.request(data, &request) {
                Some(data) => RewrittenMessage::Message(data),
                None => self.refused(&request),
            },
            Err(fault) => match awaited {
                Some(id) => self.answer(data, id),
                None => self.dropped(&fault.message),
            },
        }
    }

    /// A list of the backend has changed. Clients are told when the shared catalog has changed thereby. Where the list is the client's own,
    /// it is told at once.
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
        let is_own = self.session.list_has_changed(self.backend, kinds);
        if !is_own {
            self.backend.told_a_session_of_a_change();
        }
        if is_own && self.core.hot().aggregation.offers(capability) {
            return RewrittenMessage::Message(jsonrpc::notification(method));
        }
        RewrittenMessage::Nothing
    }

    /// A notification of the backend, if it is about something of its own.
    fn notification(&self, data: &Bytes, method: &str, params: Option<&RawValue>) -> RewrittenMessage {
        match method {
            "notifications/cancelled" => self.passed(
                self.cancelled(data, params),
                "it cancels nothing that can be named",
            ),
            "notifications/progress" => {
                self.passed(self.progress(data, params), "it is about no call to this backend")
            }
            "notifications/elicitation/complete" => {
                let id = correlation::elicitation_id(params).ok().flatten();
                let completed = id.and_then(|id| {
                    let own = self.session.elicitation_id(self.backend, id)?;
                    splice(data, id.get(), own.as_bytes())
                });
                self.passed(completed, "it is about no elicitation that can be named")
            }
            "notifications/resources/updated" if !self.is_own_resource(params) => {
                self.dropped("it is about no resource of this backend")
            }
            _ => RewrittenMessage::Message(data.clone()),
        }
    }

    fn progress(&self, data: &Bytes, params: Option<&RawValue>) -> Option<Bytes> {
        let token = correlation::reported_token(params).ok()?;
        let own = self.session.progress_token(self.backend, token)?;
        splice(data, token.get(), own.get().as_bytes())
    }

    /// Whether a resource of which the backend says that it has changed is the backend's, as far as known, or was subscribed to there.
    fn is_own_resource(&self, params: Option<&RawValue>) -> bool {
        let Ok(uri) = correlation::updated_uri(params) else {
            return false;
        };
        let catalog = self.core.catalog();
        let has = |backend: Backend| backend.name() == self.backend.name();
        self.session.watches(self.backend, &uri)
            || self.session.is_listed_to_it(self.backend, &uri)
            || match catalog.resource(&uri) {
                Some(backend) => has(backend),
                // Nobody else's, and what the backend has is not known yet.
                None => catalog.capabilities(self.backend.name()).is_none(),
            }
    }

    /// What neither asks nor notifies, on a stream that is for the answer to the request `id`.
    fn answer(&self, data: &Bytes, id: &RawValue) -> RewrittenMessage {
        match backend::read(data, id) {
            MessageRole::Answer(data) => {
                RewrittenMessage::Answer(with_own_elicitations(self.session, self.backend, data))
            }
            MessageRole::NoAnswer(error) => {
                self.warn(&error.to_string());
                RewrittenMessage::NoAnswer(error)
            }
            MessageRole::Unreadable(error) => {
                self.warn(&error.to_string());
                RewrittenMessage::Unreadable(error)
            }
            MessageRole::Other => {
                self.dropped("it has a method, and is neither a request nor a notification")
            }
        }
    }

    fn request(&self, data: &Bytes, request: &Request<'_>) -> Option<Bytes> {
        let id = self.mint(RelayedIdKind::Request, request.id)?;
        let mut parts = vec![(request.id.get(), id.as_bytes())];
        let token = correlation::progress_token(request.params).ok()?;
        let minted = match token {
            None => None,
            Some(token) => Some((token, self.mint(RelayedIdKind::Progress, token)?)),
        };
        if let Some((token, minted)) = &minted {
            parts.push((token.get(), minted.as_bytes()));
        }
        let elicitation = match &*request.method {
            "elicitation/create" => correlation::elicitation_id(request.params).ok()?,
            _ => None,
        };
        let elicitation = match elicitation {
            None => None,
            Some(id) => Some((id, self.session.elicitation_id(self.backend, id)?)),
        };
        if let Some((id, own)) = &elicitation {
            parts.push((id.get(), own.as_bytes()));
        }
        splice_all(data, &parts)
    }

    fn cancelled(&self, data: &Bytes, params: Option<&RawValue>) -> Option<Bytes> {
        let id = correlation::cancelled_id(params).ok()?;
        splice(data, id.get(), self.mint(RelayedIdKind::Request, id)?.as_bytes())
    }

    fn mint(&self, kind: RelayedIdKind, original: &RawValue) -> Option<String> {
        self.session.mint(kind, self.backend, self.upstream, original)
    }

    /// The client's answer would not find back, so that the backend gets one here.
    fn refused(&self, request: &Request<'_>) -> RewrittenMessage {
        let reason =
            "The session in which this was asked was replaced by another; its client cannot be asked";
        self.core
            .decline(self.backend, self.upstream.clone(), request.id, reason);
        self.dropped("its answer would reach nobody")
    }

    fn passed(&self, message: Option<Bytes>, otherwise: &str) -> RewrittenMessage {
        message.map_or_else(|| self.dropped(otherwise), RewrittenMessage::Message)
    }

    fn dropped(&self, reason: &str) -> RewrittenMessage {
        self.warn(reason);
        RewrittenMessage::Nothing
    }

    fn warn(&self, reason: &str) {
        tracing::warn!(request_id = %CurrentRequestId, backend = %self.backend.name(), reason, "a message of the backend is not passed on");
    }
}
