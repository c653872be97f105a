//! Header names and media types of the streamable HTTP transport.

use http::{HeaderName, HeaderValue};

/// The session id (MCP 2025-11-25, basic/transports).
pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// The protocol revision of a request after `initialize`.
pub(crate) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// The id of the last event that the client received (WHATWG HTML, "server-sent events").
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Media type of a single JSON-RPC message.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Media type of an event stream.
pub(crate) const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// The `Accept` header that the transport requires of clients.
pub(crate) const JSON_AND_EVENT_STREAM: HeaderValue =
    HeaderValue::from_static("application/json, text/event-stream");

/// Whether a backend's `Content-Type` is JSON. As in the Python SDK, the beginning is enough, which includes `application/json-rpc` and a
/// repeated type.
pub(crate) fn is_json(value: Option<&HeaderValue>) -> bool {
    let value = value.map_or(&b""[..], HeaderValue::as_bytes);
    let start = value.get(..JSON.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(JSON.as_bytes()))
}

/// Whether a `Content-Type` value has the type `media_type`, with any parameters.
pub(crate) fn is_media_type(value: Option<&HeaderValue>, media_type: &HeaderValue) -> bool {
    let Some(value) = value else { return false };
    // Fast path: nearly every peer sends exactly this value.
    if value == media_type {
        return true;
    }
    let text = value.as_bytes().trim_ascii_start();
    let Some((essence, rest)) = text.split_at_checked(media_type.len()) else {
        return false;
    };
    essence.eq_ignore_ascii_case(media_type.as_bytes())
        && matches!(rest.trim_ascii_start().first(), None | Some(b';'))
        && value.to_str().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_type_matches_in_any_case_with_parameters() {
        for (value, is_json) in [
            ("application/json", true),
            ("Application/JSON", true),
            ("application/json;charset=utf-8", true),
            (" application/json ; charset=utf-8", true),
            ("application/json\t", true),
            ("application/jsonx", false),
            ("application/json x", false),
            ("application/json, text/event-stream", false),
            ("application/jso", false),
            ("", false),
            ("text/event-stream", false),
        ] {
            let header = HeaderValue::from_static(value);
            assert_eq!(is_media_type(Some(&header), &JSON), is_json, "{value:?}");
        }
        let no_text = HeaderValue::from_bytes(b"application/json;\xff").unwrap();
        assert!(!is_media_type(Some(&no_text), &JSON) && !is_media_type(None, &JSON));
    }
}
