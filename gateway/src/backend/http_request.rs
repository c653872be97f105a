//! Builds and sends HTTP requests to a backend: headers, cookies, pinned addresses and redirects. All HTTP transports share it.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;

use super::{Backend, BackendError, UpstreamBody, UpstreamSession};
use crate::backend::http_client::SendError;
use crate::mcp::header_names;
use crate::runtime::clock;

/// The most redirects of one request that are followed.
const MAX_REDIRECTS: u32 = 3;

impl Backend {
    /// Sends the request that `make` builds in `session`, and keeps the cookies of the response in the session.
    pub(super) async fn send_in(
        &self,
        session: &UpstreamSession,
        make: impl Fn() -> Result<Request<Full<Bytes>>, BackendError>,
    ) -> Result<Response<UpstreamBody>, BackendError> {
        let response = self.send(make()?, session.address).await?;
        let take_cookies = |headers: &HeaderMap| {
            let url = self.url();
            session
                .cookies
                .store_from_response(headers, &[url], clock::unix_seconds);
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
        let sent = (!contact.headers.is_empty()).then(|| self.inner.headers.load_full());
        if let Some(headers) = &sent {
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
        let body = UpstreamBody::new(body, &head.headers, timeouts.idle, limit, account, sent);
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
