//! Checks the headers of every request before its body is read.

use http::{HeaderMap, HeaderName, HeaderValue, Response, header};

use crate::frontend::rejection::Rejection;
use crate::frontend::response::ResponseBody;
use crate::mcp::header_names as mcp;

/// Headers that must not occur twice. A proxy and the gateway could otherwise act on different values.
const SINGLE: [&str; 10] = [
    "authorization",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "origin",
];

/// Largest size of a request's headers in bytes. The HTTP server applies its limit only to a head that
/// arrives in many pieces; this check covers a head that arrives in a few large ones.
const MAX_BYTES: usize = 64 * 1024;

/// Rejects a request with too large headers, or with a repeated header that must occur once.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Response<ResponseBody>> {
    let bytes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    if bytes.sum::<usize>() > MAX_BYTES {
        let message = format!("The headers are larger than {MAX_BYTES} bytes");
        return Err(Rejection::HeadersTooLarge.response(None, &message));
    }
    if headers.len() == headers.keys_len() {
        return Ok(());
    }
    let twice = |name: &&&str| headers.get_all(**name).iter().nth(1).is_some();
    match SINGLE.iter().find(twice) {
        None => Ok(()),
        Some(name) => {
            let message = format!("The header {name} stands twice; send it once");
            Err(Rejection::InvalidHeaders.response(None, &message))
        }
    }
}

/// The response formats that the client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseFormats {
    /// One JSON message or an event stream.
    Any,
    /// One JSON message only.
    Json,
}

/// Checks the media types of a POST. A client must send JSON and should accept JSON and event streams
/// (specification 2025-11-25, basic/transports). A client that accepts JSON alone, such as a health check,
/// gets JSON.
pub(super) fn media_types(headers: &HeaderMap) -> Result<ResponseFormats, Response<ResponseBody>> {
    if !is_json(headers.get(header::CONTENT_TYPE)) {
        let message = "Content-Type must be application/json";
        return Err(Rejection::UnsupportedMediaType.response(None, message));
    }
    // Fast path: nearly every client sends this value.
    if headers.get(header::ACCEPT) == Some(&mcp::JSON_AND_EVENT_STREAM) {
        return Ok(ResponseFormats::Any);
    }
    match (accepts(headers, &mcp::JSON), accepts(headers, &mcp::EVENT_STREAM)) {
        (true, true) => Ok(ResponseFormats::Any),
        // Without the header, every media type is acceptable (RFC 9110, section 12.5.1).
        _ if !headers.contains_key(header::ACCEPT) => Ok(ResponseFormats::Any),
        (true, false) => Ok(ResponseFormats::Json),
        (false, _) => {
            let message = "Accept must list application/json, and text/event-stream for answers as streams";
            Err(Rejection::NotAcceptable.response(None, message))
        }
    }
}

/// Whether a `Content-Type` names JSON. Proxies join two equal headers to a list.
fn is_json(value: Option<&HeaderValue>) -> bool {
    let value = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let first = value.split([';', ',']).next().unwrap_or_default().trim();
    first.as_bytes().eq_ignore_ascii_case(mcp::JSON.as_bytes())
}

/// The value of a header. An empty header counts as missing.
pub(super) fn filled(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    headers.get(name).filter(|value| !value.is_empty())
}

/// Whether the header `Accept` allows `media_type`. As for the TypeScript SDKs, a range that contains its name is enough.
pub(super) fn accepts(headers: &HeaderMap, media_type: &HeaderValue) -> bool {
    let values = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut ranges = values.flat_map(|value| value.split(','));
    ranges.any(|range| {
        let essence = range.split(';').next().unwrap_or(range).trim();
        let kind = media_type.to_str().unwrap_or_default();
        let family = kind.split('/').next().unwrap_or_default();
        essence == "*/*"
            || range.to_ascii_lowercase().contains(kind)
            || essence
                .strip_suffix("/*")
                .is_some_and(|range| range.eq_ignore_ascii_case(family))
    })
}
