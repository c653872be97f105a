//! Incremental decoder of server-sent events.
//!
//! Chunks may be cut anywhere, even between a carriage return and its line feed, so the decoder keeps incomplete lines. What it keeps is
//! bounded: a line or an event over the limit fails with [`EventTooLarge`], because otherwise a sender that never ends its line could
//! exhaust the memory. Comments of any length are dropped as they arrive: servers send them as keep-alive, and they do not count for the
//! event.

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memchr2;
use serde_json::value::RawValue;

use super::Event;
use crate::runtime::step_counter;

/// The stream has an event over the limit, and cannot be read further.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server-sent event is larger than {limit} bytes")]
pub struct EventTooLarge {
    /// The limit in bytes.
    pub limit: usize,
}

/// A partial line of at least this length is set aside. In one buffer it would be copied at each reallocation, which takes milliseconds for
/// a line of 16 MiB.
const PIECE_BYTES: usize = 256 * 1024;

/// Decodes the chunks of a stream into events.
///
/// ```
/// use vmcp_gateway::mcp::sse::SseDecoder;
///
/// let mut decoder = SseDecoder::new(1024);
/// decoder.push(b"id: 7\ndata: {}");
/// assert_eq!(decoder.next_event(), Ok(None));
/// decoder.push(b"\n\n");
/// let event = decoder.next_event().unwrap().unwrap();
/// assert_eq!(event.data.unwrap(), "{}");
/// ```
#[derive(Debug)]
pub struct SseDecoder {
    /// Set-aside parts of the current line, if it is long.
    pieces: Vec<Bytes>,
    /// Total bytes of `pieces`.
    piece_bytes: usize,
    /// Unprocessed bytes after `pieces`.
    buffer: BytesMut,
    /// Number of bytes of `buffer` that contain no line end.
    scanned: usize,
    /// The current line is a comment, which is discarded.
    in_comment: bool,
    /// The last line ended with a carriage return; a line feed directly after it belongs to it.
    after_cr: bool,
    at_start: bool,
    event: Event,
    /// The joined data lines of the current event, if there are several.
    joined: Option<BytesMut>,
    /// Whether the current event has a field. Blank lines alone are no event.
    has_field: bool,
    size: usize,
    limit: usize,
}

impl SseDecoder {
    /// Creates a decoder that rejects events over `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            pieces: Vec::new(),
            piece_bytes: 0,
            buffer: BytesMut::new(),
            scanned: 0,
            in_comment: false,
            after_cr: false,
            at_start: true,
            event: Event::default(),
            joined: None,
            has_field: false,
            size: 0,
            limit,
        }
    }

    /// Adds a chunk. Call [`Self::next_event`] until it returns `None` before adding the next one.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// Number of bytes held in memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.line_bytes().saturating_add(self.size)
    }

    /// Bytes of the current line so far.
    fn line_bytes(&self) -> usize {
        self.buffer.len().saturating_add(self.piece_bytes)
    }

    /// The next complete event, if there is one.
    ///
    /// # Errors
    /// If the current event is larger than the limit. The stream cannot be read further.
    pub fn next_event(&mut self) -> Result<Option<Event>, EventTooLarge> {
        while let Some(line) = self.next_line() {
            if line.is_empty() {
                self.size = 0;
                if std::mem::take(&mut self.has_field) {
                    if let Some(joined) = self.joined.take() {
                        self.event.data = Some(joined.freeze());
                    }
                    return Ok(Some(std::mem::take(&mut self.event)));
                }
                continue;
            }
            // Ignored fields count, too: while a line is incomplete, its field may still turn out to be a known one.
            self.size = self.size.saturating_add(line.len());
            if self.size > self.limit {
                return Err(EventTooLarge { limit: self.limit });
            }
            self.has_field |= self.field(&line);
        }
        if self.held() > self.limit {
            return Err(EventTooLarge { limit: self.limit });
        }
        Ok(None)
    }

    /// At the end of the stream: the unfinished event, if its data is complete JSON. A stream must end with a blank line, and anything
    /// after it may be truncated; but complete JSON is not.
    pub fn last_event(&mut self) -> Option<Event> {
        let rest = self.take_line(self.buffer.len());
        if !rest.is_empty() && !self.in_comment {
            self.field(&rest);
        }
        if let Some(joined) = self.joined.take() {
            self.event.data = Some(joined.freeze());
        }
        self.size = 0;
        self.has_field = false;
        let event = std::mem::take(&mut self.event);
        let data = event.data.as_ref()?;
        serde_json::from_slice::<&RawValue>(data).is_ok().then_some(event)
    }

    fn next_line(&mut self) -> Option<Bytes> {
        if self.at_start && !self.buffer.is_empty() {
            const BOM: &[u8] = b"\xEF\xBB\xBF";
            if self.buffer.len() < BOM.len() && BOM.starts_with(&self.buffer) {
                return None;
            }
            if self.buffer.starts_with(BOM) {
                self.buffer.advance(BOM.len());
            }
            self.at_start = false;
        }
        if !self.skip_line_feed() {
            return None;
        }
        loop {
            self.in_comment |= self.pieces.is_empty() && self.buffer.first() == Some(&b':');
            let unscanned = self.buffer.get(self.scanned..).unwrap_or_default();
            let found = memchr2(b'\r', b'\n', unscanned);
            step_counter::count(found.unwrap_or(unscanned.len()).saturating_add(1));
            let Some(found) = found else {
                if self.in_comment {
                    self.buffer.clear();
                } else if self.buffer.len() >= PIECE_BYTES {
                    self.piece_bytes = self.line_bytes();
                    self.pieces.push(self.buffer.split().freeze());
                }
                self.scanned = self.buffer.len();
                return None;
            };
            let end = self.scanned.saturating_add(found);
            self.scanned = 0;
            let line = self.take_line(end);
            self.after_cr = self.buffer.first() == Some(&b'\r');
            self.buffer.advance(1);
            if !std::mem::take(&mut self.in_comment) {
                return Some(line);
            }
            if !self.skip_line_feed() {
                return None;
            }
        }
    }

    /// Takes the current line, of which `end` bytes are in the buffer.
    fn take_line(&mut self, end: usize) -> Bytes {
        let last = self.buffer.split_to(end).freeze();
        if self.pieces.is_empty() {
            return last;
        }
        self.pieces.push(last);
        self.piece_bytes = 0;
        Bytes::from(std::mem::take(&mut self.pieces).concat())
    }

    /// Skips the line feed that belongs to a carriage return. `false` if the next byte has not arrived yet.
    fn skip_line_feed(&mut self) -> bool {
        if self.after_cr {
            let Some(first) = self.buffer.first() else {
                return false;
            };
            if *first == b'\n' {
                self.buffer.advance(1);
            }
            self.after_cr = false;
        }
        true
    }

    /// Processes a line of the current event, and returns whether it is a known field.
    fn field(&mut self, line: &Bytes) -> bool {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let name = line.get(..colon).unwrap_or_default();
        let mut value = line.slice(colon.saturating_add(1).min(line.len())..);
        if value.first() == Some(&b' ') {
            value.advance(1);
        }
        match name {
            b"data" => match (&mut self.joined, &self.event.data) {
                (Some(joined), _) => {
                    joined.extend_from_slice(b"\n");
                    joined.extend_from_slice(&value);
                }
                (None, Some(first)) => self.joined = Some([first, &b"\n"[..], &value].concat()[..].into()),
                (None, None) => self.event.data = Some(value),
            },
            b"event" => self.event.event = Some(value),
            // The specification ignores an id that contains NUL.
            b"id" if !value.contains(&0) => self.event.id = Some(value),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                self.event.retry = Some(value);
            }
            // A comment or an unknown field.
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;
    use crate::runtime::step_counter::assert_linear;

    #[test]
    fn unterminated_event_with_complete_json_counts() {
        let last = |text: &str| {
            let mut decoder = SseDecoder::new(1 << 20);
            decoder.push(text.as_bytes());
            while decoder.next_event().unwrap().is_some() {}
            let last = decoder.last_event();
            assert_eq!(decoder.last_event(), None, "it comes once");
            last.and_then(|event| event.data)
        };
        for whole in [
            "data: {}",
            "data: {}\n",
            "data: {}\r",
            "data: x\n\nid: 1\ndata: {\ndata: }",
            "\n\nevent: a\ndata:{}\n",
        ] {
            assert!(last(whole).is_some(), "{whole:?}");
        }
        for part in [
            "",
            "data: {}\n\n",
            "data: {",
            "data: {\n",
            "data",
            "id: 1\n",
            ": {}",
            "dat",
            "\u{feff}",
        ] {
            assert_eq!(last(part), None, "{part:?}");
        }
    }

    fn decode(chunks: &[&[u8]]) -> Vec<Event> {
        let mut decoder = SseDecoder::new(1 << 20);
        let mut events = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(event) = decoder.next_event().unwrap() {
                events.push(event);
            }
        }
        events
    }

    fn data(text: &str) -> Event {
        Event {
            data: Some(Bytes::copy_from_slice(text.as_bytes())),
            ..Event::default()
        }
    }

    /// Every kind of line end ends a line, wherever the chunks are cut.
    #[test]
    fn any_line_end_works_at_any_chunk_boundary() {
        let text = b"\xEF\xBB\xBFid: 1\r\ndata: a\r\rdata:b\n\n: comment\n\nretry: 5\ndata\r\n\r\nevent: x\ndata:  c\ndata: d\n\n";
        let whole = decode(&[text]);
        assert_eq!(whole.len(), 4);
        assert_eq!(
            whole[0],
            Event {
                id: Some("1".into()),
                ..data("a")
            }
        );
        assert_eq!(whole[1], data("b"));
        assert_eq!(
            whole[2],
            Event {
                retry: Some("5".into()),
                ..data("")
            }
        );
        assert_eq!(
            whole[3],
            Event {
                event: Some("x".into()),
                ..data(" c\nd")
            }
        );
        for cut in 0..text.len() {
            assert_eq!(decode(&[&text[..cut], &text[cut..]]), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(decode(&bytes), whole);
    }

    #[test]
    fn only_events_of_type_message_carry_messages() {
        for (text, carries) in [
            (&b"data: a\n\n"[..], true),
            (b"event: message\ndata: a\n\n", true),
            (b"event:\ndata: a\n\n", true),
            (b"event: ping\nid: 1\ndata: a\n\n", false),
            (b"event: Message\ndata: a\n\n", false),
            (b"id: 1\ndata:\n\n", false),
            (b"id: 1\n\n", false),
        ] {
            let events = decode(&[text]);
            assert_eq!(events[0].message().is_some(), carries, "{events:?}");
        }
    }

    #[test]
    fn encoded_event_decodes_to_itself() {
        let event = Event {
            id: Some("a b".into()),
            event: Some("message".into()),
            retry: Some("3000".into()),
            data: Some("{\"x\":1}\n{\"y\":2}".into()),
        };
        assert_eq!(decode(&[&encode(&event)]), [event]);
    }

    #[test]
    fn line_or_event_over_the_limit_fails() {
        let mut decoder = SseDecoder::new(100);
        decoder.push(&[b'x'; 101]);
        assert_eq!(decoder.next_event(), Err(EventTooLarge { limit: 100 }));

        let mut decoder = SseDecoder::new(100);
        let mut result = Ok(None);
        for _ in 0..30 {
            decoder.push(b"data: 0123456789\n");
            result = decoder.next_event();
            if result.is_err() {
                break;
            }
        }
        assert_eq!(result, Err(EventTooLarge { limit: 100 }));
    }

    /// A long line is reassembled from its pieces, counts while it arrives, and does not affect the next line.
    #[test]
    fn long_line_is_read_in_pieces() {
        let limit = 3 * PIECE_BYTES;
        // The cut is followed by a colon, which would start a comment at the beginning of a line.
        let value = ":x".repeat(PIECE_BYTES + 7);
        let text = format!("data: {value}\ndata: b\n\n");
        for chunk in [1000, PIECE_BYTES - 1, PIECE_BYTES, text.len()] {
            let mut decoder = SseDecoder::new(limit);
            let (mut events, mut most) = (Vec::new(), 0);
            for _ in 0..2 {
                for chunk in text.as_bytes().chunks(chunk) {
                    decoder.push(chunk);
                    events.extend(decoder.next_event().unwrap());
                    most = most.max(decoder.held());
                    assert!(decoder.buffer.len() < PIECE_BYTES, "it is not put aside");
                }
                assert_eq!(decoder.held(), 0);
            }
            assert!(most + chunk >= value.len(), "{most}");
            let expected = data(&format!("{value}\nb"));
            assert!(events == [expected.clone(), expected], "chunks of {chunk}");
        }
        let mut decoder = SseDecoder::new(limit);
        let chunks = (0..5).map(|_| {
            decoder.push(&[b'x'; PIECE_BYTES]);
            decoder.next_event()
        });
        assert_eq!(chunks.last(), Some(Err(EventTooLarge { limit })));
    }

    #[test]
    fn long_unterminated_last_event_is_complete() {
        let json = format!("\"{}\"", "x".repeat(3 * PIECE_BYTES));
        let mut decoder = SseDecoder::new(usize::MAX);
        for chunk in format!("data: {json}").as_bytes().chunks(1000) {
            decoder.push(chunk);
            assert_eq!(decoder.next_event(), Ok(None));
        }
        assert!(decoder.last_event() == Some(data(&json)));
        assert_eq!(decoder.held(), 0);
    }

    #[test]
    fn comments_are_dropped_and_do_not_count() {
        let mut decoder = SseDecoder::new(100);
        decoder.push(b"data: a\n");
        for (piece, times) in [
            (&b": keep-alive\n"[..], 30),
            (b": no end", 30),
            (b"x:", 30),
            (b"\r", 1),
            (b"\n", 1),
            (b":\r\n", 30),
            (b"other: field\n", 3),
        ] {
            for _ in 0..times {
                decoder.push(piece);
                assert_eq!(decoder.next_event(), Ok(None));
                assert!(decoder.buffer.is_empty(), "{piece:?}");
            }
        }
        decoder.push(b"data: b\n: between\n\n");
        assert_eq!(decoder.next_event(), Ok(Some(data("a\nb"))));
    }

    #[test]
    fn decoding_is_linear_for_any_chunks() {
        for line in [
            "x",
            ": comment\n",
            "data: 0123456789\n",
            "id: 1\n",
            "\n",
            "data: a\r\n\r\n",
        ] {
            assert_linear(
                1000,
                |lines| line.repeat(lines),
                |text| {
                    let mut decoder = SseDecoder::new(1 << 20);
                    for chunk in text.as_bytes().chunks(100) {
                        decoder.push(chunk);
                        while decoder.next_event().unwrap().is_some() {}
                    }
                },
            );
        }
    }

    #[test]
    fn limit_applies_per_event() {
        let mut decoder = SseDecoder::new(100);
        for _ in 0..50 {
            decoder.push(b"data: 0123456789\n\n");
            assert!(decoder.next_event().unwrap().is_some());
        }
    }
}
