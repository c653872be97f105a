//! What a browser must be told so that a page which may use the endpoint can (WHATWG Fetch, "CORS protocol").
//!
//! Nothing here lets anybody in: [`super::origin`] has done that. Cookies are never asked for: a page that has a token sends it itself.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

use crate::frontend::response;
use crate::frontend::response::ResponseBody;

/// What pages may do.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
/// The headers of answers that a page may read, beside those that every page may.
const READABLE: HeaderValue =
    HeaderValue::from_static("Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After");
/// For how long a browser need not ask again, in seconds. Browsers shorten it.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
/// Asked by a page of a public network that wants to use an endpoint in a private one (WICG Private Network Access).
const ASKS_PRIVATE: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOWS_PRIVATE: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// The answer to a browser that asks whether a page may send the request that it wants to send; `None` when nobody asks that.
pub(super) fn preflight<B>(
    request: &Request<B>,
    origin: Option<&HeaderValue>,
) -> Option<Response<ResponseBody>> {
    let asks = request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    origin.filter(|_| asks)?;
    let mut response = response::empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    // Whatever it wants to send: `*` would leave out Authorization, and a list what a backend is passed.
    if let Some(wanted) = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    if request.headers().contains_key(ASKS_PRIVATE) {
        headers.insert(ALLOWS_PRIVATE, HeaderValue::from_static("true"));
    }
    Some(response)
}

/// Lets the page from `origin` read an answer.
pub(super) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, READABLE);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}
