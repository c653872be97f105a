//! Requests to a backend over HTTP, and the meaning of error responses.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Backend, BackendError, UpstreamBody, UpstreamSession};
use crate::backend::http_client::SendError;
use crate::backend::response_events::ResponseEvents;
use crate::backend::response_reader;
use crate::backend::response_reader::BackendResponse;
use crate::mcp::{error_code, header_names, jsonrpc};
use crate::runtime::clock;

/// How long the deletion of a session may take. Only the drain waits for it.
const DELETE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a backend may take to answer the ping that checks a session.
const SESSION_CHECK_DEADLINE: Duration = Duration::from_secs(5);

/// The most redirects of one request that are followed.
const MAX_REDIRECTS: u32 = 3;

/// The most bytes of an error's body that are read.
const MAX_ERROR_BODY_BYTES: usize = 64 * 1024;

/// How long to wait for the body of an error response.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(1);

impl Backend {
    /// Sends the request `message` with the id `id`, and returns the response in the backend's framing.
    ///
    /// # Errors
    /// When there is no response. [`BackendError::SessionLost`] means that the backend needs a new `initialize` and has not executed the
    /// request.
    pub async fn call(
        &self,
        session: &UpstreamSession,
        message: Bytes,
        id: &RawValue,
    ) -> Result<BackendResponse, BackendError> {
        if self.has_streams_for_sessions() {
            return Box::pin(self.call_over_sse(session, message, id)).await;
        }
        let response = self.post(Some(session), message).await?;
        if !has_answer(&response) {
            return Box::pin(self.interpret_error_response(session, response, id)).await;
        }
        let content_type = response.headers().get(http::header::CONTENT_TYPE);
        if header_names::is_media_type(content_type, &header_names::EVENT_STREAM) {
            let events = ResponseEvents::new(response.into_body());
            return Ok(BackendResponse::Events(
                Box::new(session.clone()),
                Box::new(events),
            ));
        }
        if header_names::is_json(content_type) {
            return response_reader::json(response.into_body(), id).await;
        }
        Err(BackendError::content_type(
            content_type,
            "neither JSON nor a stream of events",
        ))
    }

    /// Sends the notification or response `message`.
    ///
    /// # Errors
    /// When the backend does not accept it. [`BackendError::SessionLost`] means that the backend no longer knows the session.
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
            let error = BackendError::from_response(&response);
            let is_unknown_method = is_unknown_method(&read_error_body(response.into_body()).await);
            Err(if is_unknown_method {
                error
            } else {
                BackendError::SessionLost
            })
        } else {
            Err(BackendError::from_response(&response))
        }
    }

    /// Deletes the session at the backend. A backend without deletion responds with 405, which counts as success.
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
        let make = || self.request(Method::DELETE, Some(session), Bytes::new());
        let closing = async {
            let response = self.send(make()?, session.address).await?;
            self.follow(response, make, session.address).await
        };
        let closing = tokio::time::timeout(DELETE_DEADLINE, closing);
        closing
            .await
            .unwrap_or(Err(BackendError::Deadline(DELETE_DEADLINE)))
            .map(drop)
    }

    pub(super) async fn post(
        &self,
        session: Option<&UpstreamSession>,
        message: Bytes,
    ) -> Result<Response<UpstreamBody>, BackendError> {
        let make = || self.request(Method::POST, session, message.clone());
        match session {
            Some(session) => self.send_in(session, make).await,
            None => self.follow(self.send(make()?, None).await?, make, None).await,
        }
    }

    /// Sends the request that `make` builds in `session`, and keeps the cookies of the response in the session.
    pub(super) async fn send_in(
        &self,
        session: &UpstreamSession,
        make: impl Fn() -> Result<Request<Full<Bytes>>, BackendError>,
    ) -> Result<Response<UpstreamBody>, BackendError> {
        let response = self.send(make()?, session.address).await?;
        let take_cookies = |headers: &HeaderMap| {
            let url = self.url();
            session.cookies.take(headers, &[url], clock::unix_seconds);
        };
        if response.status().is_redirection() {
            let response = Box::pin(self.follow(response, make, session.address)).await?;
            take_cookies(response.headers());
            return Ok(response);
        }
        take_cookies(response.headers());
        Ok(response)
    }

    /// Follows the redirects of `response` within the origin. `make` builds each request again, because redirects are too rare to keep a
    /// copy of every request.
    pub(super) async fn follow(
        &self,
        response: Response<UpstreamBody>,
        make: impl Fn() -> Result<Request<Full<Bytes>>, BackendError>,
        address: Option<IpAddr>,
    ) -> Result<Response<UpstreamBody>, BackendError> {
        if !response.status().is_redirection() {
            return Ok(response);
        }
        let following = async {
            let (mut url, mut response) = (self.inner.url.clone(), response);
            for _ in 0..MAX_REDIRECTS {
                let Some(place) = same_origin_redirect(&url, &response) else {
                    break;
                };
                url = place;
                let mut request = make()?;
                *request.uri_mut() = url.clone();
                response = self.send(request, address).await?;
            }
            Ok(response)
        };
        Box::pin(following).await
    }

    /// Sends `request` in a session that is pinned to `address`, if given, and waits for the response head.
    ///
    /// When the server has left that address, it has executed nothing: the session is lost and must be opened at another address. A
    /// server that only fails to accept the connection in time may be alive and have the session.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        address: Option<IpAddr>,
    ) -> Result<Response<UpstreamBody>, BackendError> {
        let failure = match self.send_to(request, address).await {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        match (failure, address) {
            (SendError::NoConnection { refused, reason }, Some(address)) => {
                if Box::pin(
                    self.inner
                        .pools
                        .load_full()
                        .note_connect_failure(address, refused),
                )
                .await
                {
                    tracing::info!(backend = %self.name(), %address, reason, "reopening upstream session at another address");
                    return Err(BackendError::SessionLost);
                }
                Err(BackendError::Unreachable(reason))
            }
            (failure, _) => Err(failure.into()),
        }
    }

    /// Sends `request` to `address`, or to any address of the host, and waits for the response head.
    pub(super) async fn send_to(
        &self,
        mut request: Request<Full<Bytes>>,
        address: Option<IpAddr>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let pool = self.inner.pools.load().pool(address);
        let contact = Arc::clone(&self.contact());
        let timeouts = &contact.timeouts;
        if !contact.headers.is_empty() {
            let headers = self.inner.headers.load_full();
            Box::pin(headers.put(request.headers_mut())).await?;
        }
        let first_byte = match timeouts.first_byte {
            // A POST already has the deadline of its call. A second timer per call is not needed.
            None if request.method() == Method::POST => None,
            None => Some(timeouts.longest_call()),
            configured => configured,
        };
        let response = pool.send(request, first_byte).await?;
        let (head, body) = response.into_parts();
        let account = self.account().clone();
        let limit = contact.max_answer_bytes;
        let body = UpstreamBody::new(body, &head.headers, timeouts.idle, limit, account);
        Ok(Response::from_parts(head, body))
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
        // Capacity for these headers and those that the connection adds.
        headers.reserve(8);
        if let Some(host) = &self.inner.host_header {
            headers.insert(http::header::HOST, host.clone());
        }
        if let Some(passed) = &self.passed {
            headers.extend(passed.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        headers.insert(http::header::CONTENT_TYPE, header_names::JSON);
        headers.insert(http::header::ACCEPT, header_names::JSON_AND_EVENT_STREAM);
        headers.insert(
            http::header::ACCEPT_ENCODING,
            http::HeaderValue::from_static("identity"),
        );
        if let Some(session) = session {
            let revision = http::HeaderValue::from_static(session.revision.as_str());
            headers.insert(header_names::PROTOCOL_VERSION, revision);
            if let Some(id) = &session.id {
                headers.insert(header_names::SESSION_ID, id.clone());
            }
            if let Some(cookies) = session.cookies.header(clock::unix_seconds) {
                headers.insert(http::header::COOKIE, cookies);
            }
        }
        Ok(request)
    }

    /// Interprets an error response.
    ///
    /// A JSON-RPC error with the request's own id is the response to the request. A 404 without one means a lost session. Some servers
    /// send 400 or echo the request's id for a lost session, and send the same for a call that they reject. A ping in the session then
    /// tells the two cases apart.
    ///
    /// A session without an id can be lost, too: a restarted server may now require ids.
    async fn interpret_error_response(
        &self,
        session: &UpstreamSession,
        response: Response<UpstreamBody>,
        id: &RawValue,
    ) -> Result<BackendResponse, BackendError> {
        let status = response.status();
        let error = BackendError::from_response(&response);
        if !status.is_client_error() {
            return Err(with_detail(error, response.into_body()).await);
        }
        let body = read_error_body(response.into_body()).await;
        let error = error.with_detail_of(&body);
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
    pub(super) async fn has_lost_session(&self, session: &UpstreamSession) -> bool {
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

/// Whether `response` contains the response to the request. Some servers send it with 201 or 202.
pub(super) fn has_answer<B>(response: &Response<B>) -> bool {
    let is_message = || {
        let content_type = response.headers().get(http::header::CONTENT_TYPE);
        header_names::is_json(content_type)
            || header_names::is_media_type(content_type, &header_names::EVENT_STREAM)
    };
    response.status() == StatusCode::OK || response.status().is_success() && is_message()
}

/// Returns the target of a 307 or 308 redirect of `uri` within the same origin, where credentials and sessions stay with the server.
/// Servers redirect between `/mcp` and `/mcp/` in this way.
fn same_origin_redirect<B>(uri: &Uri, response: &Response<B>) -> Option<Uri> {
    if !matches!(
        response.status(),
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
    ) {
        return None;
    }
    let place = response.headers().get(http::header::LOCATION)?;
    let place: Uri = place.to_str().ok()?.parse().ok()?;
    let path = place.path_and_query()?.clone();
    let mut parts = uri.clone().into_parts();
    let is_same = (place.scheme(), place.authority()) == (uri.scheme(), uri.authority());
    let is_relative =
        place.scheme().is_none() && place.authority().is_none() && path.as_str().starts_with('/');
    if !is_same && !is_relative {
        return None;
    }
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).ok()
}

/// Adds the error text of the body, if the body arrives soon.
pub(super) async fn with_detail(error: BackendError, body: UpstreamBody) -> BackendError {
    error.with_detail_of(&read_error_body(body).await)
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
