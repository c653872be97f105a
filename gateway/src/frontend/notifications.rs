//! Messages of a client that want no answer: its answers to backends' requests, and its notifications.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderMap, StatusCode};
use serde_json::value::RawValue;

use super::Frontend;
use super::post::label;
use crate::backend::{Backend, BackendError, UpstreamSession};
use crate::core::Principal;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::Message;
use crate::mcp::splice::splice;
use crate::mcp::{correlation, error_code};
use crate::session::{Cancelled, NoUpstreamSession, RelayedIdKind, Session, SessionError};
use crate::telemetry::request_id::CurrentRequestId;

/// How long a backend may take to accept a message.
const DEADLINE: Duration = Duration::from_secs(10);

type Response = http::Response<ResponseBody>;

impl Frontend {
    /// What became of `message`, which came in as `body`, and the method for the metrics.
    pub(super) async fn one_way(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        message: &Message<'_>,
        principal: &Principal,
    ) -> (&'static str, Response) {
        let method = match message {
            Message::Notification { method, .. } => label(method),
            Message::Request(_) | Message::Response(_) => "response",
        };
        let outcome = match self.session(headers, None, principal).await {
            Err(refusal) => Err(refusal),
            Ok(session) => self.deliver(&session, body, message).await,
        };
        (
            method,
            outcome.map_or_else(|refusal| refusal, |()| response::accepted()),
        )
    }

    /// Takes a message of `session` that wants no answer.
    pub(super) async fn deliver(
        &self,
        session: &Session,
        body: &Bytes,
        message: &Message<'_>,
    ) -> Result<(), Response> {
        match message {
            Message::Response(response) => minted(session, RelayedIdKind::Request, body, response.id).await,
            Message::Notification { method, params } => {
                self.notification(session, body, method, *params).await
            }
            Message::Request(_) => Ok(()),
        }
    }

    async fn notification(
        &self,
        session: &Session,
        body: &Bytes,
        method: &str,
        params: Option<&RawValue>,
    ) -> Result<(), Response> {
        match method {
            "notifications/cancelled" => {
                let id = correlation::cancelled_id(params).map_err(|fault| response::fault(&fault))?;
                if jsonrpc::is_reserved_id(id) {
                    return minted(session, RelayedIdKind::Request, body, id).await;
                }
                // It names no backend, and this process need not know which one runs the call.
                return match session.cancelled(id) {
                    Cancelled::ByItsOwnId => self.everywhere(session, body),
                    Cancelled::ByAnotherId(upstream) => {
                        match splice(body, id.get(), upstream.get().as_bytes()) {
                            Some(message) => self.everywhere(session, &message),
                            None => Ok(()),
                        }
                    }
                    Cancelled::InSharedSession(backend, upstream) => {
                        match splice(body, id.get(), upstream.get().as_bytes()) {
                            Some(message) => self.in_shared_session(&backend, &message),
                            None => Ok(()),
                        }
                    }
                    // To cancel the wrong one is worse than to cancel none, which the protocol allows.
                    Cancelled::Ambiguous => Ok(()),
                };
            }
            "notifications/progress" => {
                let token = correlation::reported_token(params).map_err(|fault| response::fault(&fault))?;
                // A token that is not ours was given by nobody.
                if jsonrpc::is_reserved_id(token) {
                    return minted(session, RelayedIdKind::Progress, body, token).await;
                }
            }
            // Written anew where it has no parameters: null, which is taken here, is not for every backend.
            "notifications/roots/list_changed" if params.is_none() => {
                return self.everywhere(session, &jsonrpc::notification(method));
            }
            "notifications/roots/list_changed" => return self.everywhere(session, body),
            // `notifications/initialized` is for the gateway, which has nothing to wait for; others mean nothing to it.
            _ => {}
        }
        Ok(())
    }

    /// Sends a notification in the session that all clients share at the backend `name`, in the background.
    fn in_shared_session(&self, name: &str, message: &Bytes) -> Result<(), Response> {
        let backend = self.core.catalog().backend(name);
        let shared = backend.and_then(|backend| {
            let upstream = backend.shared_session()?.greeting.session;
            Some((backend, upstream))
        });
        self.in_background(shared.into_iter().collect(), message)
    }

    /// Sends a notification to every backend that the session is bound to, in the background: one that hangs is no reason for the
    /// client to wait.
    fn everywhere(&self, session: &Session, body: &Bytes) -> Result<(), Response> {
        self.in_background(session.bound(), body)
    }

    fn in_background(&self, to: Vec<(Backend, UpstreamSession)>, body: &Bytes) -> Result<(), Response> {
        let telling: Vec<_> = to
            .into_iter()
            .map(|(backend, upstream)| {
                let message = body.clone();
                async move {
                    let taken = tokio::time::timeout(DEADLINE, backend.notify(&upstream, message)).await;
                    if !matches!(taken, Ok(Ok(()))) {
                        tracing::debug!(backend = %backend.name(), "a notification was not taken");
                    }
                }
            })
            .collect();
        let telling = async { drop(join_all(telling).await) };
        if self.sessions.in_background(telling) {
            Ok(())
        } else {
            Err(response::later(None, "Too many notifications are on their way"))
        }
    }
}

/// Sends `body` to the backend for which `text` in it was minted, with what it stands for in its place. It is accepted only once the
/// backend has taken it.
async fn minted(
    session: &Session,
    kind: RelayedIdKind,
    body: &Bytes,
    text: &RawValue,
) -> Result<(), Response> {
    let refuse = |message: &str| {
        response::error(
            StatusCode::BAD_REQUEST,
            None,
            error_code::INVALID_REQUEST,
            message,
        )
    };
    let minted = jsonrpc::string(text).and_then(|text| session.minted(kind, &text));
    let minted = minted.ok_or_else(|| refuse("The id is none that the gateway gave in this session"))?;
    let (backend, upstream) = match session.upstream(&minted.backend, minted.upstream).await {
        Ok(upstream) => upstream,
        Err(NoUpstreamSession::Session(SessionError::Unavailable(unavailable))) => {
            return Err(response::store_unavailable(None, &unavailable));
        }
        Err(NoUpstreamSession::Session(gone)) => return Err(response::session_error(None, &gone)),
        Err(lost) => return Err(refuse(&lost.to_string())),
    };
    let message = splice(body, text.get(), minted.original.get().as_bytes());
    let message = message.ok_or_else(|| refuse("The id cannot be found in the message"))?;
    match tokio::time::timeout(DEADLINE, backend.notify(&upstream, message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(not_taken(&backend, &error)),
        Err(_) => Err(not_taken(&backend, &BackendError::Deadline(DEADLINE))),
    }
}

/// The backend did not take what was for it: it never will, or the client should try again.
fn not_taken(backend: &Backend, error: &BackendError) -> Response {
    let name = backend.name();
    match error {
        BackendError::SessionLost | BackendError::Status(400..=407 | 409..=428 | 430..=499) => {
            let message = format!("The backend {name} {error}; what belonged to it is lost");
            response::error(
                StatusCode::BAD_REQUEST,
                None,
                error_code::INVALID_REQUEST,
                &message,
            )
        }
        _ => {
            tracing::warn!(request_id = %CurrentRequestId, backend = %name, %error, "a client's message was not taken");
            response::later(None, &format!("The backend {name} {error}; send it again"))
        }
    }
}
