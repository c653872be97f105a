//! POSTs to a backend, and what their answers' heads mean.

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

/// How long the deletion of a session may take. Nobody waits for it but the end of the process.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a backend may take to say whether it knows a session.
const DOUBT_DEADLINE: Duration = Duration::from_secs(5);

/// How many redirects of one request are followed.
const MAX_REDIRECTS: u32 = 3;

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
    ) -> Result<BackendResponse, BackendError> {
        if self.has_streams_for_sessions() {
            return Box::pin(self.call_over_sse(session, message, id)).await;
        }
        let response = self.post(Some(session), message).await?;
        if !has_answer(&response) {
            return Box::pin(self.refusal(session, response, id)).await;
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
            let error = BackendError::of_answer(&response);
            let is_unknown_method = is_unknown_method(&head_soon(response.into_body()).await);
            Err(if is_unknown_method {
                error
            } else {
                BackendError::SessionLost
            })
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
        let make = || self.request(Method::DELETE, Some(session), Bytes::new());
        let closing = async {
            let response = self.send(make()?, session.address).await?;
            self.follow(response, make, session.address).await
        };
        let closing = tokio::time::timeout(CLOSE_DEADLINE, closing);
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
        let make = || self.request(Method::POST, session, message.clone());
        match session {
            Some(session) => self.send_in(session, make).await,
            None => self.follow(self.send(make()?, None).await?, make, None).await,
        }
    }

    /// Sends what `make` makes in `session`, which takes the cookies that the answer sets.
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

    /// Follows the redirects of `response` within the origin, each with what `make` makes: a request is not kept for this, which hardly
    /// ever happens.
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
                let Some(place) = within_origin(&url, &response) else {
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

    /// Sends `request` in a session that is held at `address`, if it is, and waits for the head of its answer.
    ///
    /// A server that is not at that address any more has not executed anything: the session is lost, and another is to be opened at
    /// another address. One that does not take the connection in time may be alive, and have the session.
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
                if Box::pin(self.inner.pools.load_full().is_left(address, refused)).await {
                    tracing::info!(backend = %self.name(), %address, reason, "the address of a session is left");
                    return Err(BackendError::SessionLost);
                }
                Err(BackendError::Unreachable(reason))
            }
            (failure, _) => Err(failure.into()),
        }
    }

    /// Sends `request` to `address`, or to any of the host's, and waits for the head of its answer.
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
            // Whoever posts has a deadline of his own, and one timer for each call is enough.
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
        // Room for these, and for those that the connection adds.
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

    /// What a status other than 200 means.
    ///
    /// A JSON-RPC error for the request's own id is the answer to the request. A lost session is a 404 without one: without a body, with
    /// text, or with an error whose id is another. Some servers say 400, or echo the request's id when they have lost the session, and
    /// say the same of a call that they do not like: then only the session itself can tell the two apart, and is asked with a ping.
    ///
    /// A session without an id can be lost, too: a server that gives ids since it was restarted wants one.
    async fn refusal(
        &self,
        session: &UpstreamSession,
        response: Response<UpstreamBody>,
        id: &RawValue,
    ) -> Result<BackendResponse, BackendError> {
        let status = response.status();
        let error = BackendError::of_answer(&response);
        if !status.is_client_error() {
            return Err(told(error, response.into_body()).await);
        }
        let body = head_soon(response.into_body()).await;
        let error = error.told(&body);
        let code = error_code(&body);
        let answer = code.and_then(|_| response_reader::check(body, id).ok());
        let Some(answer) = answer else {
            let has_id = session.id.is_some();
            return Err(match status {
                StatusCode::NOT_FOUND if has_id => BackendError::SessionLost,
                StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST if self.has_lost(session).await => {
                    BackendError::SessionLost
                }
                _ => error,
            });
        };
        match status {
            _ if code.is_some_and(|code| says_nothing_of_sessions(status, code)) => {}
            // What is said of credentials and of the pace is for the gateway.
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::PROXY_AUTHENTICATION_REQUIRED
            | StatusCode::TOO_MANY_REQUESTS => return Err(error),
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST if self.has_lost(session).await => {
                return Err(BackendError::SessionLost);
            }
            _ => {}
        }
        Ok(BackendResponse::Whole(self.account().count(answer)))
    }

    /// Whether the backend refuses even a ping in `session`. One that does not know the method lives.
    pub(super) async fn has_lost(&self, session: &UpstreamSession) -> bool {
        let pinging = async {
            let ping = jsonrpc::request(&self.next_id()?, "ping", b"{}");
            let answer = self.post(Some(session), ping).await?;
            let refusals = [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND];
            let is_refused = refusals.contains(&answer.status());
            Ok::<_, BackendError>(is_refused && !is_unknown_method(&head_soon(answer.into_body()).await))
        };
        let lost = tokio::time::timeout(DOUBT_DEADLINE, pinging).await;
        matches!(lost, Ok(Ok(true)))
    }
}

/// Whether the answer to a request is in `response`. Some servers say "created" or "accepted" where they answer.
pub(super) fn has_answer<B>(response: &Response<B>) -> bool {
    let is_message = || {
        let content_type = response.headers().get(http::header::CONTENT_TYPE);
        header_names::is_json(content_type)
            || header_names::is_media_type(content_type, &header_names::EVENT_STREAM)
    };
    response.status() == StatusCode::OK || response.status().is_success() && is_message()
}

/// Where `response` redirects the request to `uri`, method and body included, if that is at the same origin: no credential and no session
/// gets into other hands there. Servers redirect so between `/mcp` and `/mcp/`.
fn within_origin<B>(uri: &Uri, response: &Response<B>) -> Option<Uri> {
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

/// The error with what its body says of it, if that comes soon.
pub(super) async fn told(error: BackendError, body: UpstreamBody) -> BackendError {
    error.told(&head_soon(body).await)
}

/// As [`head`], if that comes soon; empty otherwise.
pub(super) async fn head_soon(body: UpstreamBody) -> Bytes {
    let reading = tokio::time::timeout(ERROR_BODY_PATIENCE, head(body));
    reading.await.unwrap_or_default()
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

/// The code of the JSON-RPC error in `body`.
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

/// Whether `body` says that the method is not known, which nobody says of a lost session.
pub(super) fn is_unknown_method(body: &[u8]) -> bool {
    error_code(body) == Some(error_code::METHOD_NOT_FOUND.into())
}

/// Whether the protocol gives `code` a meaning that has nothing to do with sessions. Behind a 404, which is what lost sessions get,
/// "invalid request" may mean one.
fn says_nothing_of_sessions(status: StatusCode, error: i64) -> bool {
    let defined = i64::from(error_code::PARSE_ERROR)..=i64::from(error_code::INVALID_REQUEST);
    let modern = -32099..=-32020;
    modern.contains(&error)
        || defined.contains(&error)
            && (status != StatusCode::NOT_FOUND || error != i64::from(error_code::INVALID_REQUEST))
}
