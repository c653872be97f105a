//! Encodes the server-sent events that the gateway adds, and those that carry messages.

use bytes::Bytes;

use crate::mcp::revision::Revision;
use crate::mcp::sse;

/// Time before a client reconnects after a broken stream, in milliseconds.
const RETRY: &[u8] = b"1000";
/// Time before a client reconnects when the process is about to end, in milliseconds. Another replica is
/// ready by then.
const RETRY_ON_DRAIN: &[u8] = b"100";

/// Whether clients of `revision` accept events without data. Clients of older revisions parse them as a
/// message and fail.
pub(super) fn is_empty_data_allowed(revision: Revision) -> bool {
    revision >= Revision::V2025_11_25
}

/// The first event of a stream: its position and the reconnection time (specification 2025-11-25,
/// basic/transports).
pub(super) fn priming(id: &str) -> Bytes {
    sse::encode(&sse::Event {
        id: Some(Bytes::copy_from_slice(id.as_bytes())),
        retry: Some(Bytes::from_static(RETRY)),
        data: Some(Bytes::new()),
        event: None,
    })
}

/// An event that carries only a position.
pub(super) fn position(id: &str) -> Bytes {
    sse::encode(&sse::Event {
        id: Some(Bytes::copy_from_slice(id.as_bytes())),
        data: Some(Bytes::new()),
        ..sse::Event::default()
    })
}

/// The type of an event that carries a message. It is the default, but some clients (AI SDK 1, mcp-go 0.31)
/// require the name.
pub(super) const MESSAGE: &str = "message";

/// An event that carries a message, with its position if it has one.
pub(super) fn message(data: Bytes, id: Option<&str>) -> Bytes {
    sse::encode(&sse::Event {
        id: id.map(|id| Bytes::copy_from_slice(id.as_bytes())),
        event: Some(Bytes::from_static(MESSAGE.as_bytes())),
        data: Some(data),
        ..sse::Event::default()
    })
}

/// The last event of a stream that ends because the process ends. It has no data, so that no client takes it
/// for a message.
pub(super) fn closing() -> Bytes {
    sse::encode(&sse::Event {
        retry: Some(Bytes::from_static(RETRY_ON_DRAIN)),
        ..sse::Event::default()
    })
}
