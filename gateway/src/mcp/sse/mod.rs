//! Server-sent events (WHATWG HTML, "server-sent events"): bytes to events, and events to bytes.

mod decode;
mod encode;

use bytes::Bytes;

pub use decode::{EventTooLarge, SseDecoder};
pub use encode::encode;

/// One event. The data is the bytes that the sender wrote, so that passing an event on changes its framing only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `id:`, the position to which a client may resume.
    pub id: Option<Bytes>,
    /// `event:`, the event's type; absent means `message`.
    pub event: Option<Bytes>,
    /// `retry:`, the reconnection delay in milliseconds.
    pub retry: Option<Bytes>,
    /// `data:`; several lines are joined by a line feed. Absent where the event has no data line at all.
    pub data: Option<Bytes>,
}

impl Event {
    /// The message that the event carries: its data, when it has any and is of the type `message`, which is the one without a name too.
    /// Browsers deliver no other types to those who listen to messages.
    #[must_use]
    pub fn message(&self) -> Option<&Bytes> {
        let kind = self.event.as_ref().filter(|kind| !kind.is_empty());
        let is_message = kind.is_none_or(|kind| &kind[..] == b"message");
        self.data.as_ref().filter(|data| is_message && !data.is_empty())
    }
}
