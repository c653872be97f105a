//! Server-sent events (WHATWG HTML, "server-sent events"): decoder and encoder.

mod decode;
mod encode;

use bytes::Bytes;

pub use decode::{EventTooLarge, SseDecoder};
pub use encode::encode;

/// One event. The data is the sender's bytes, so that forwarding an event changes only its framing.
///
/// ```
/// use vmcp_gateway::mcp::sse::{Event, encode};
///
/// let event = Event { id: Some("7".into()), data: Some("{}".into()), ..Event::default() };
/// assert_eq!(encode(&event), "id: 7\ndata: {}\n\n");
/// assert_eq!(event.message().unwrap(), "{}");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `id:`, the position from which a client can resume.
    pub id: Option<Bytes>,
    /// `event:`, the type of the event; absent means `message`.
    pub event: Option<Bytes>,
    /// `retry:`, the reconnection delay in milliseconds.
    pub retry: Option<Bytes>,
    /// `data:`, several lines joined by line feeds. Absent if the event has no data line.
    pub data: Option<Bytes>,
}

impl Event {
    /// The JSON-RPC message of the event: its data, if it is not empty and the event type is `message` or absent. Browsers deliver events
    /// of other types to separate listeners.
    #[must_use]
    pub fn message(&self) -> Option<&Bytes> {
        let kind = self.event.as_ref().filter(|kind| !kind.is_empty());
        let is_message = kind.is_none_or(|kind| &kind[..] == b"message");
        self.data.as_ref().filter(|data| is_message && !data.is_empty())
    }
}
