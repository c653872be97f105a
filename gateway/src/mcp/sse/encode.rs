//! Serializes server-sent events.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::Event;

/// The bytes of an event. Each line of the data becomes a `data:` line, as the format requires.
#[must_use]
pub fn encode(event: &Event) -> Bytes {
    let data_len = event.data.as_ref().map_or(0, Bytes::len);
    let mut bytes = BytesMut::with_capacity(data_len.saturating_add(64));
    for (name, value) in [
        ("id", &event.id),
        ("event", &event.event),
        ("retry", &event.retry),
    ] {
        if let Some(value) = value {
            line(&mut bytes, name, value);
        }
    }
    if let Some(data) = &event.data {
        for part in data.split(|byte| *byte == b'\n') {
            line(&mut bytes, "data", part);
        }
    }
    bytes.put_u8(b'\n');
    bytes.freeze()
}

fn line(bytes: &mut BytesMut, name: &str, value: &[u8]) {
    bytes.put_slice(name.as_bytes());
    bytes.put_slice(b": ");
    bytes.put_slice(value);
    bytes.put_u8(b'\n');
}
