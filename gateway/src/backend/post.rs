//! POSTs to a backend, and what their answers' heads mean.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{self, Answer};
use super::events::Events;
use super::handshake::own_id;
use super::transport::Failure;
use super::{Backend, BackendError, UpstreamBody, UpstreamSession};
use crate::wire::{code, header, jsonrpc};

/// How long the deletion of a session may take. Nobody waits for it but the end of the process.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a backend may take to say whether it knows a session.
const DOUBT_DEADLINE: Duration = Duration::from_secs(5);

/// How much of an error's body is read to find out what it means.
const ERROR_BODY_LIMIT: usize = 64 * 1024;

/// How long the body of an error is waited for, where it only explains the error.
const ERROR_BODY_PATIENCE: Duration = Duration::from_secs(1);

impl Backend {
    /// Sends the request `message` with the id `id`, and gives the answer as the backend frames it.
    ///
    /// # Errors
    /// When there is no answer. [`BackendError::SessionLost`] means that the backend wants a new `initialize` first, and has
    /// not executed the request.
    pub async fn call(
        &self,
        session: &UpstreamSession,
        message: Bytes,
        id: &RawValue,
    ) -> Result<Answer, BackendError> {
        if self.has_streams_for_sessions() {
            return Box::pin(self.call_over_sse(session, message, id)).await;
        }
        let response = self.post(Some(session), message).await?;
        if response.status() != StatusCode::OK {
            return Box::pin(self.refusal(session, response, id)).await;
        }
        let content_type = response.headers().get(http::header::CONTENT_TYPE);
        if header::is_media_type(content_type, &header::EVENT_STREAM) {
            let events = Events::new(response.into_body());
            return Ok(Answer::Events(session.clone(), Box::new(events)));
        }
        if header::is_media_type(content_type, &header::JSON) {
            return answer::json(response.into_body(), id).await;
        }
        Err(BackendError::content_type(
            content_type,
            "neither JSON nor a stream of events",
        ))
    }

    /// Sends the notification or response `message`.
    ///
    /// # Errors
    /// When the backend does not accept it. [`BackendError::SessionLost`] means that it does not know the session any more.
    pub async fn notify(&self, session: &UpstreamSession, message: Bytes) -> Result<(), BackendError> {
        if self.has_streams_for_sessions() {
            let stream = session.id.as_ref().ok_or(BackendError::SessionLost)?;
            return self.post_over_sse(stream, message).await;
        }
        let response = self.post(Some(session), message).await?;
        let status = response.status();
        if status.is_success() {
            Ok(())
        } else if status == StatusCode::NOT_FOUND && session.id.is_some() {
            Err(BackendError::SessionLost)
        } else {
            Err(BackendError::of_answer(&response))
        }
    }

    /// Deletes the session at the backend. Backends that have no deletion answer 405, which is as good.
    ///
    /// # Errors
    /// When the backend cannot be reached.
    pub async fn close(&self, session: &UpstreamSession) -> Result<(), BackendError> {
        if session.id.is_none() {
            return Ok(());
        }
        if self.has_streams_for_sessions() {
            self.close_stream(session);
            return Ok(());
        }
        let request = self.request(Method::DELETE, Some(session), Bytes::new())?;
        let closing = tokio::time::timeout(CLOSE_DEADLINE, self.send(request, session.address));
        closing
            .await
            .unwrap_or(Err(BackendError::Deadline(CLOSE_DEADLINE)))
            .map(drop)
    }

    pub(super) async fn post(
        &self,
        session: Option<&UpstreamSession>,
        message: Bytes,
    ) -> Result<Response<UpstreamBody>, BackendError> {
        let request = self.request(Method::POST, session, message)?;
        self.send(request, session.and_then(|session| session.address))
            .await
    }

    /// Sends `request` in a session that is held at `address`, if it is, and waits for the head of its answer.
    ///
    /// A server that is not at that address any more has not executed anything: the session is lost, and another is to be opened at
    /// another address. One that does not take the connection in time may be alive, and have the session.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        address: Option<IpAddr>,
    ) -> Result<Response<UpstreamBody>, BackendError> {
        match (self.send_to(request, address).await, address) {
            (Err(Failure::NoConnection { refused, reason }), Some(address)) => {
                if Box::pin(self.inner.pools.load_full().is_left(address, refused)).await {
                    tracing::info!(backend = %self.name(), %address, reason, "the address of a session is left");
                    return Err(BackendError::SessionLost);
                }
                Err(BackendError::Unreachable(reason))
            }
            (outcome, _) => Ok(outcome?),
        }
    }

    /// Sends `request` to `address`, or to any of the host's, and waits for the head of its answer.
    pub(super) async fn send_to(
        &self,
        mut request: Request<Full<Bytes>>,
        address: Option<IpAddr>,
    ) -> Result<Response<UpstreamBody>, Failure> {
        let pool = self.inner.pools.load().pool(address);
        let contact = Arc::clone(&self.contact());
        let timeouts = &contact.timeouts;
        if !contact.headers.is_empty() {
            let headers = self.inner.headers.load_full();
            Box::pin(headers.put(request.headers_mut())).await?;
        }
        let first_byte = match timeouts.first_byte {
            // Whoever posts has a deadline of his own, and one timer for each call is enough.
            None if request.method() == Method::POST => None,
            None => Some(timeouts.longest_call()),
            configured => configured,
        };
        let response = pool.send(request, first_byte).await?;
        Ok(response.map(|body| UpstreamBody::new(body, timeouts.idle, contact.max_answer_bytes)))
    }

    pub(super) fn request(
        &self,
        method: Method,
        session: Option<&UpstreamSession>,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, BackendError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.inner.url.clone();
        let headers = request.headers_mut();
        // Room for these, and for those that the connection adds.
        headers.reserve(8);
        if let Some(host) = &self.inner.host_header {
            headers.insert(http::header::HOST, host.clone());
        }
        if let Some(passed) = &self.passed {
            headers.extend(passed.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        headers.insert(http::header::CONTENT_TYPE, header::JSON);
        headers.insert(http::header::ACCEPT, header::JSON_AND_EVENT_STREAM);
        headers.insert(
            http::header::ACCEPT_ENCODING,
            http::HeaderValue::from_static("identity"),
        );
        if let Some(session) = session {
            let revision = http::HeaderValue::from_static(session.revision.as_str());
            headers.insert(header::PROTOCOL_VERSION, revision);
            if let Some(id) = &session.id {
                headers.insert(header::SESSION_ID, id.clone());
            }
        }
        Ok(request)
    }

    /// What a status other than 200 means. A lost session is a 404; some servers say 400 instead, with an error code that the
    /// protocol does not define, and say the same of a call that they do not like: only the session itself can tell the two
    /// apart. A JSON-RPC error with a code that the protocol does define is an answer like any other.
    ///
    /// A session without an id can be lost, too: a server that gives ids since it was restarted wants one.
    async fn refusal(
        &self,
        session: &UpstreamSession,
        response: Response<UpstreamBody>,
        id: &RawValue,
    ) -> Result<Answer, BackendError> {
        let status = response.status();
        if status == StatusCode::NOT_FOUND && session.id.is_some() {
            return Err(BackendError::SessionLost);
        }
        let error = BackendError::of_answer(&response);
        if !status.is_client_error() {
            return Err(told(error, response.into_body()).await);
        }
        let body = head(response.into_body()).await;
        let error = error.told(&body);
        if is_protocol_error(&body)
            && let Ok(answer) = answer::check(body, id)
        {
            return Ok(Answer::Whole(answer));
        }
        let in_doubt = matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND);
        if in_doubt && self.knows_no_more(session).await {
            return Err(BackendError::SessionLost);
        }
        Err(error)
    }

    /// Whether the backend refuses even a ping in `session`.
    async fn knows_no_more(&self, session: &UpstreamSession) -> bool {
        let id = own_id();
        let asking = self.post(Some(session), jsonrpc::request(&id, "ping", b"{}"));
        let answer = tokio::time::timeout(DOUBT_DEADLINE, asking).await;
        let refusals = [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND];
        matches!(answer, Ok(Ok(answer)) if refusals.contains(&answer.status()))
    }
}

/// The error with what its body says of it, if that comes soon.
pub(super) async fn told(error: BackendError, body: UpstreamBody) -> BackendError {
    match tokio::time::timeout(ERROR_BODY_PATIENCE, head(body)).await {
        Ok(body) => error.told(&body),
        Err(_) => error,
    }
}

/// The body of an error; empty where it cannot be read, or is too large to be one of the protocol's.
async fn head(mut body: UpstreamBody) -> Bytes {
    let mut read = BytesMut::new();
    while let Ok(Some(chunk)) = body.chunk().await {
        read.extend_from_slice(&chunk);
        if read.len() > ERROR_BODY_LIMIT {
            return Bytes::new();
        }
    }
    read.freeze()
}

fn is_protocol_error(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Body {
        error: ErrorObject,
    }
    #[derive(Deserialize)]
    struct ErrorObject {
        code: i64,
    }
    let defined = i64::from(code::PARSE_ERROR)..=i64::from(code::INVALID_REQUEST);
    serde_json::from_slice::<Body>(body)
        .is_ok_and(|body| defined.contains(&body.error.code) || (-32099..=-32020).contains(&body.error.code))
}
