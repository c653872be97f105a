//! CORS headers, and responses to CORS preflight requests (WHATWG Fetch, "CORS protocol").
//!
//! These headers grant no access: [`super::origin`] has checked the origin before. Credentials are not
//! allowed: a page that has a token sends it itself, and cookies mean nothing here.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

use crate::frontend::response;
use crate::frontend::response::ResponseBody;

/// The methods that pages may use.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
/// The response headers that a page may read in addition to those that every page may read.
const READABLE: HeaderValue =
    HeaderValue::from_static("Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After");
/// How long a browser may cache the preflight response, in seconds. Browsers use a lower limit of their own.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
/// Sent by a browser whose page is on a public network and wants to use an endpoint in a private one (WICG
/// Private Network Access).
const ASKS_PRIVATE: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOWS_PRIVATE: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// The response to a CORS preflight request; `None` for any other request.
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
    // Repeats the headers that the page asks for: `*` would not cover Authorization, and a fixed list would
    // leave out headers that are passed to backends.
    if let Some(wanted) = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    if request.headers().contains_key(ASKS_PRIVATE) {
        headers.insert(ALLOWS_PRIVATE, HeaderValue::from_static("true"));
    }
    Some(response)
}

/// Allows the page from `origin` to read the response.
pub(super) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, READABLE);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}
