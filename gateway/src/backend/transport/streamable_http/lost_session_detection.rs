//! Detects a lost upstream session: decides whether an error response of streamable HTTP means that the backend does not
//! know the session any more, or is a JSON-RPC error of the call.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::backend::response_reader;
use crate::backend::{Backend, BackendError, BackendResponse, UpstreamBody, UpstreamSession};
use crate::mcp::{error_code, jsonrpc};

/// How long a backend may take to answer the ping that checks a session.
const SESSION_CHECK_DEADLINE: Duration = Duration::from_secs(5);

/// The most bytes of an error's body that are read.
const MAX_ERROR_BODY_BYTES: usize = 64 * 1024;

/// How long to wait for the body of an error response.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(1);

impl Backend {
    /// Interprets an error response.
    ///
    /// A JSON-RPC error with the request's own id is the response to the request. A 404 without one means a lost session. Some servers
    /// send 400 or echo the request's id for a lost session, and send the same for a call that they reject. A ping in the session then
    /// tells the two cases apart.
    ///
    /// A session without an id can be lost, too: a restarted server may now require ids.
    pub(super) async fn interpret_error_response(
        &self,
        session: &UpstreamSession,
        response: Response<UpstreamBody>,
        id: &RawValue,
    ) -> Result<BackendResponse, BackendError> {
        let status = response.status();
        let error = BackendError::from_response(&response);
        if !status.is_client_error() {
            let body = read_error_body(response.into_body()).await;
            return Err(error.with_detail_of(&body, &self.inner.headers.load()));
        }
        let body = read_error_body(response.into_body()).await;
        let error = error.with_detail_of(&body, &self.inner.headers.load());
        let code = error_code(&body);
        let answer = code.and_then(|_| response_reader::check(body, id).ok());
        let Some(answer) = answer else {
            let has_id = session.id.is_some();
            return Err(match status {
                StatusCode::NOT_FOUND if has_id => BackendError::SessionLost,
                StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST if self.has_lost_session(session).await => {
                    BackendError::SessionLost
                }
                _ => error,
            });
        };
        match status {
            _ if code.is_some_and(|code| is_unrelated_to_sessions(status, code)) => {}
            // Errors about credentials and rate are the gateway's concern.
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::PROXY_AUTHENTICATION_REQUIRED
            | StatusCode::TOO_MANY_REQUESTS => return Err(error),
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST if self.has_lost_session(session).await => {
                return Err(BackendError::SessionLost);
            }
            _ => {}
        }
        Ok(BackendResponse::Whole(self.account().count(answer)))
    }

    /// Whether the backend rejects even a ping in `session`. An unknown method means that the session lives.
    async fn has_lost_session(&self, session: &UpstreamSession) -> bool {
        let pinging = async {
            let ping = jsonrpc::request(&self.next_id()?, "ping", b"{}");
            let answer = self.post(Some(session), ping).await?;
            let refusals = [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND];
            let is_refused = refusals.contains(&answer.status());
            Ok::<_, BackendError>(
                is_refused && !is_unknown_method(&read_error_body(answer.into_body()).await),
            )
        };
        let lost = tokio::time::timeout(SESSION_CHECK_DEADLINE, pinging).await;
        matches!(lost, Ok(Ok(true)))
    }
}

/// Reads the body of an error response; empty if it does not arrive in time.
pub(super) async fn read_error_body(body: UpstreamBody) -> Bytes {
    let reading = tokio::time::timeout(ERROR_BODY_TIMEOUT, read_bounded(body));
    reading.await.unwrap_or_default()
}

/// Reads a body; empty if it is unreadable or too large for a protocol error.
async fn read_bounded(mut body: UpstreamBody) -> Bytes {
    let mut read = BytesMut::new();
    while let Ok(Some(chunk)) = body.chunk().await {
        read.extend_from_slice(&chunk);
        if read.len() > MAX_ERROR_BODY_BYTES {
            return Bytes::new();
        }
    }
    read.freeze()
}

/// Returns the code of the JSON-RPC error in `body`.
fn error_code(body: &[u8]) -> Option<i64> {
    #[derive(Deserialize)]
    struct Body {
        error: ErrorObject,
    }
    #[derive(Deserialize)]
    struct ErrorObject {
        code: i64,
    }
    let body: Body = serde_json::from_slice(body).ok()?;
    Some(body.error.code)
}

/// Whether `body` is the error "method not found", which no server sends for a lost session.
pub(super) fn is_unknown_method(body: &[u8]) -> bool {
    error_code(body) == Some(error_code::METHOD_NOT_FOUND.into())
}

/// Whether the protocol gives the code a meaning unrelated to sessions. With a 404, "invalid request" may mean a lost session.
fn is_unrelated_to_sessions(status: StatusCode, error: i64) -> bool {
    let defined = i64::from(error_code::PARSE_ERROR)..=i64::from(error_code::INVALID_REQUEST);
    let modern = -32099..=-32020;
    modern.contains(&error)
        || defined.contains(&error)
            && (status != StatusCode::NOT_FOUND || error != i64::from(error_code::INVALID_REQUEST))
}
