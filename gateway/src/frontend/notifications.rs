//! Handles the client's notifications and its responses to backends' requests.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use serde_json::value::RawValue;

use super::Frontend;
use crate::backend::{Backend, BackendError, UpstreamSession};
use crate::core::RelayedIdKind;
use crate::frontend::rejection::Rejection;
use crate::frontend::request_context::{RequestContext, RequestKind};
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::correlation;
use crate::mcp::error_code;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::{InvalidMessage, Message};
use crate::mcp::method::Method;
use crate::mcp::splice::splice;
use crate::session::{CancellationTarget, NoUpstreamSession, Session, SessionError};
use crate::telemetry::request_id::CurrentRequestId;

/// How long a backend may take to accept a message.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

type Response = http::Response<ResponseBody>;

impl Frontend {
    /// Handles `message`, which came in as `body`.
    pub(super) async fn deliver_message(
        &self,
        context: &RequestContext,
        body: &Bytes,
        message: &Message<'_>,
    ) -> (RequestKind, Response) {
        let kind = match message {
            Message::Notification { method, .. } => RequestKind::Message(Method::parse(method)),
            Message::Request(_) | Message::Response(_) => RequestKind::Response,
        };
        let outcome = match self.session(context, None).await {
            Err(rejection) => Err(rejection),
            Ok(session) => self.deliver(context, &session, body, message).await,
        };
        (
            kind,
            outcome.map_or_else(|rejection| rejection, |()| response::accepted()),
        )
    }

    /// Delivers a notification or a response of `session`.
    pub(super) async fn deliver(
        &self,
        context: &RequestContext,
        session: &Session,
        body: &Bytes,
        message: &Message<'_>,
    ) -> Result<(), Response> {
        match message {
            // No backend asked under such an id. The official SDKs accept the response and ignore it.
            Message::Response(response) if !jsonrpc::is_reserved_id(response.id) => Ok(()),
            Message::Response(response) => {
                relay_to_issuer(context, session, RelayedIdKind::Request, body, response.id).await
            }
            Message::Notification { method, params } => {
                self.notification(context, session, body, method, *params).await
            }
            Message::Request(_) => Ok(()),
        }
    }

    async fn notification(
        &self,
        context: &RequestContext,
        session: &Session,
        body: &Bytes,
        method: &str,
        params: Option<&RawValue>,
    ) -> Result<(), Response> {
        match Method::parse(method) {
            Method::Cancelled => {
                let Some(id) = optional(correlation::cancelled_id(params))? else {
                    return Ok(());
                };
                if jsonrpc::is_reserved_id(id) {
                    return relay_to_issuer(context, session, RelayedIdKind::Request, body, id).await;
                }
                // The notification names no backend, and the call may run in another process.
                return match session.resolve_cancellation(id) {
                    // No backend has seen a request with an id of another kind.
                    CancellationTarget::SameId if !jsonrpc::is_forwardable_id(id) => Ok(()),
                    CancellationTarget::SameId => self.notify_bound_backends(context, session, body),
                    CancellationTarget::RenamedId(upstream) => {
                        match splice(body, id.get(), upstream.get().as_bytes()) {
                            Some(message) => self.notify_bound_backends(context, session, &message),
                            None => Ok(()),
                        }
                    }
                    CancellationTarget::SharedSession(backend, upstream) => {
                        match splice(body, id.get(), upstream.get().as_bytes()) {
                            Some(message) => self.notify_in_shared_session(&backend, &message),
                            None => Ok(()),
                        }
                    }
                    // Cancelling the wrong call is worse than cancelling none, which the protocol allows.
                    CancellationTarget::Ambiguous => Ok(()),
                };
            }
            Method::Progress => {
                let Some(token) = optional(correlation::reported_token(params))? else {
                    return Ok(());
                };
                // A token with the gateway's prefix that does not verify was not issued by the gateway.
                if jsonrpc::is_reserved_id(token) {
                    return relay_to_issuer(context, session, RelayedIdKind::Progress, body, token).await;
                }
            }
            // Encoded anew if it has no parameters: `"params": null` is accepted here, but not by every
            // backend.
            Method::RootsListChanged if params.is_none() => {
                return self.notify_bound_backends(context, session, &jsonrpc::notification(method));
            }
            Method::RootsListChanged => return self.notify_bound_backends(context, session, body),
            // `notifications/initialized` needs no action, and unknown notifications are ignored.
            _ => {}
        }
        Ok(())
    }

    /// Sends a notification to backend `name` in the session that all clients share there, in the background.
    fn notify_in_shared_session(&self, name: &str, message: &Bytes) -> Result<(), Response> {
        let backend = self.core.catalog().backend(name);
        let shared = backend.and_then(|backend| {
            let upstream = backend.shared_session()?.initialize_result.session;
            Some((backend, upstream))
        });
        self.notify_in_background(shared.into_iter().collect(), message)
    }

    /// Sends a notification in the background to every backend that the session is bound to, so that the
    /// client does not wait for a slow backend.
    fn notify_bound_backends(
        &self,
        context: &RequestContext,
        session: &Session,
        body: &Bytes,
    ) -> Result<(), Response> {
        self.notify_in_background(session.bound(&context.passed), body)
    }

    fn notify_in_background(
        &self,
        to: Vec<(Backend, UpstreamSession)>,
        body: &Bytes,
    ) -> Result<(), Response> {
        let sends: Vec<_> = to
            .into_iter()
            .map(|(backend, upstream)| {
                let message = body.clone();
                async move {
                    let taken = tokio::time::timeout(DELIVERY_TIMEOUT, backend.notify(&upstream, message)).await;
                    if !matches!(taken, Ok(Ok(()))) {
                        tracing::debug!(backend = %backend.name(), "failed to deliver a notification to the backend");
                    }
                }
            })
            .collect();
        let sends = async { drop(join_all(sends).await) };
        if self.sessions.in_background(sends) {
            Ok(())
        } else {
            Err(Rejection::LimitReached.response(None, "Too many notifications are on their way"))
        }
    }
}

/// What a notification refers to. A notification that refers to nothing is accepted, as by the official SDKs, and has no effect.
fn optional(found: Result<&RawValue, InvalidMessage>) -> Result<Option<&RawValue>, Response> {
    match found {
        Ok(named) => Ok(Some(named)),
        Err(fault) if fault.code == error_code::INVALID_PARAMS => Ok(None),
        Err(fault) => Err(response::invalid_message(&fault)),
    }
}

/// Sends `body` to the backend that `text`, a relayed id in it, was issued for, with the backend's own id
/// restored. The client gets success only once the backend has accepted the message.
async fn relay_to_issuer(
    context: &RequestContext,
    session: &Session,
    kind: RelayedIdKind,
    body: &Bytes,
    text: &RawValue,
) -> Result<(), Response> {
    let reject = |message: &str| Rejection::NotIssuedHere.response(None, message);
    let relayed = jsonrpc::string(text).and_then(|text| session.read_relayed_id(kind, &text));
    let relayed = relayed.ok_or_else(|| reject("The id is none that the gateway gave in this session"))?;
    let issuer = session.upstream(&relayed.backend, relayed.upstream, &context.passed);
    let (backend, upstream) = match issuer.await {
        Ok(upstream) => upstream,
        Err(NoUpstreamSession::Session(SessionError::Unavailable(unavailable))) => {
            return Err(response::store_unavailable(None, &unavailable));
        }
        Err(NoUpstreamSession::Session(gone)) => return Err(response::session_error(None, &gone)),
        Err(lost) => return Err(reject(&lost.to_string())),
    };
    let message = splice(body, text.get(), relayed.original.get().as_bytes());
    let message = message.ok_or_else(|| reject("The id cannot be found in the message"))?;
    match tokio::time::timeout(DELIVERY_TIMEOUT, backend.notify(&upstream, message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(delivery_failed(&backend, &error)),
        Err(_) => Err(delivery_failed(
            &backend,
            &BackendError::Deadline(DELIVERY_TIMEOUT),
        )),
    }
}

/// Rejects a message that the backend did not accept: permanently, or with the advice to retry.
fn delivery_failed(backend: &Backend, error: &BackendError) -> Response {
    let name = backend.name();
    match error {
        BackendError::SessionLost
        | BackendError::Status {
            code: 400..=407 | 409..=428 | 430..=499,
            ..
        } => {
            let message = format!("The backend {name} {error}; what belonged to it is lost");
            Rejection::NotIssuedHere.response(None, &message)
        }
        _ => {
            tracing::warn!(request_id = %CurrentRequestId, backend = %name, %error, "failed to deliver a client message to the backend");
            Rejection::DeliveryFailed.response(None, &format!("The backend {name} {error}; send it again"))
        }
    }
}
