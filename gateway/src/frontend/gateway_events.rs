//! The events that a client gets, beside those that carry a backend's messages.

use bytes::Bytes;

use crate::mcp::revision::Revision;
use crate::mcp::sse;

/// How long a client waits before it comes back, in milliseconds, when a stream broke.
const RETRY: &[u8] = b"1000";
/// The same when the process is about to end: another one is there already.
const RETRY_ELSEWHERE: &[u8] = b"100";

/// Whether clients of this revision take events without data, which older ones read as a message and choke on.
pub(super) fn takes_empty_data(revision: Revision) -> bool {
    revision >= Revision::V2025_11_25
}

/// The first event of a stream: its position, and how long to wait before coming back (specification 2025-11-25, basic/transports).
pub(super) fn priming(id: &str) -> Bytes {
    sse::encode(&sse::Event {
        id: Some(Bytes::copy_from_slice(id.as_bytes())),
        retry: Some(Bytes::from_static(RETRY)),
        data: Some(Bytes::new()),
        event: None,
    })
}

/// A position alone.
pub(super) fn position(id: &str) -> Bytes {
    sse::encode(&sse::Event {
        id: Some(Bytes::copy_from_slice(id.as_bytes())),
        data: Some(Bytes::new()),
        ..sse::Event::default()
    })
}

/// The type of an event that carries a message. It is the default, but some clients (AI SDK 1, mcp-go 0.31) wait for the name itself.
pub(super) const MESSAGE: &str = "message";

/// A message, with its position if it has one.
pub(super) fn message(data: Bytes, id: Option<&str>) -> Bytes {
    sse::encode(&sse::Event {
        id: id.map(|id| Bytes::copy_from_slice(id.as_bytes())),
        event: Some(Bytes::from_static(MESSAGE.as_bytes())),
        data: Some(data),
        ..sse::Event::default()
    })
}

/// The last event of a stream that ends because the process does. It has no data, so that it is no message to anybody.
pub(super) fn farewell() -> Bytes {
    sse::encode(&sse::Event {
        retry: Some(Bytes::from_static(RETRY_ELSEWHERE)),
        ..sse::Event::default()
    })
}
