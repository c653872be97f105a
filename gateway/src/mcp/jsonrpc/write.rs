//! Serializes the gateway's own messages.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::runtime::truncate;
use crate::runtime::truncate::MAX_ERROR_BYTES;

/// A response with the JSON `result`.
#[must_use]
pub fn result(id: &RawValue, result: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(id.get().len().saturating_add(result.len()).saturating_add(40));
    message.put_slice(br#"{"jsonrpc":"2.0","id":"#);
    message.put_slice(id.get().as_bytes());
    message.put_slice(br#","result":"#);
    message.put_slice(result);
    message.put_u8(b'}');
    message.freeze()
}

/// The beginning of a response with a result, up to and including `opening`, the first bytes of the result. The caller closes it with one
/// brace.
#[must_use]
pub fn result_head(id: &RawValue, opening: &[u8]) -> Bytes {
    let known = id.get().len().saturating_add(opening.len());
    let mut head = BytesMut::with_capacity(known.saturating_add(40));
    head.put_slice(br#"{"jsonrpc":"2.0","id":"#);
    head.put_slice(id.get().as_bytes());
    head.put_slice(br#","result":"#);
    head.put_slice(opening);
    head.freeze()
}

/// An error response. `id` is the id of the request, or `None` if it could not be read. A long `message` is truncated, because it may quote
/// text of a peer.
#[must_use]
pub fn error(id: Option<&RawValue>, code: i32, message: &str) -> Bytes {
    error_with_data(id, code, message, None)
}

/// As [`error`], with machine-readable `data`.
#[must_use]
pub fn error_with_data(
    id: Option<&RawValue>,
    code: i32,
    message: &str,
    data: Option<&serde_json::Value>,
) -> Bytes {
    #[derive(Serialize)]
    struct Body<'a> {
        jsonrpc: &'static str,
        id: Option<&'a RawValue>,
        error: ErrorObject<'a>,
    }
    #[derive(Serialize)]
    struct ErrorObject<'a> {
        code: i32,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a serde_json::Value>,
    }
    let cut;
    let message = if message.len() > MAX_ERROR_BYTES {
        cut = truncate::brief(message, MAX_ERROR_BYTES);
        &cut
    } else {
        message
    };
    let body = Body {
        jsonrpc: "2.0",
        id,
        error: ErrorObject { code, message, data },
    };
    // Serializing strings and integers to memory cannot fail; an empty body would be the fallback.
    serde_json::to_vec(&body).map(Bytes::from).unwrap_or_default()
}

/// A notification without params.
#[must_use]
pub fn notification(method: &str) -> Bytes {
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#))
}

/// A notification with the JSON object `params`.
#[must_use]
pub fn notification_with(method: &str, params: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(method.len().saturating_add(params.len()).saturating_add(48));
    message.put_slice(br#"{"jsonrpc":"2.0","method":""#);
    message.put_slice(method.as_bytes());
    message.put_slice(br#"","params":"#);
    message.put_slice(params);
    message.put_u8(b'}');
    message.freeze()
}

/// A request with the JSON object `params`.
#[must_use]
pub fn request(id: &RawValue, method: &str, params: &[u8]) -> Bytes {
    let id = id.get();
    let length = id.len().saturating_add(method.len()).saturating_add(params.len());
    let mut message = BytesMut::with_capacity(length.saturating_add(64));
    message.put_slice(br#"{"jsonrpc":"2.0","id":"#);
    message.put_slice(id.as_bytes());
    message.put_slice(br#","method":""#);
    message.put_slice(method.as_bytes());
    message.put_slice(br#"","params":"#);
    message.put_slice(params);
    message.put_u8(b'}');
    message.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_message_is_bounded() {
        let error = error(
            None,
            -32601,
            &format!("Method not found: {}", "x".repeat(4 << 20)),
        );
        assert!(error.len() < MAX_ERROR_BYTES + 100, "{}", error.len());
    }
}
