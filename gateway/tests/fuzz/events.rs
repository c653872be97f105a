//! The decoder of server-sent events: the chunks in which a stream arrives make no difference.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use vmcp_gateway::mcp::sse::{Event, EventTooLarge, SseDecoder};

const REGRESSIONS: &str = "tests/fuzz/regressions/events.txt";

/// The events of a stream that arrives in `chunks`, and the error if an event was too large.
fn decode<'a>(
    chunks: impl IntoIterator<Item = &'a [u8]>,
    limit: usize,
) -> (Vec<Event>, Option<EventTooLarge>) {
    let mut decoder = SseDecoder::new(limit);
    let mut events = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        loop {
            match decoder.next_event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

/// A stream of typical pieces and random bytes.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let pieces = select(vec![
        "data: a",
        "data:b",
        "data",
        "data: ",
        "id: 1",
        "id: a\0b",
        "id",
        "event: message",
        "retry: 30",
        "retry: x",
        ": comment",
        ":",
        "other: field",
        "\n",
        "\n",
        "\n\n",
        "\r",
        "\r\n",
        "\r\n\r\n",
        "\u{feff}",
        "é",
        " ",
    ]);
    let piece = prop_oneof![
        12 => pieces.prop_map(|piece| piece.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..5),
    ];
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Splits `bytes` into chunks at `places`.
fn split<'a>(bytes: &'a [u8], places: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(super::config(REGRESSIONS))]

    #[test]
    fn chunks_do_not_change_the_events(
        bytes in stream(),
        places in vec(any::<Index>(), 0..12),
    ) {
        let whole = decode([&bytes[..]], 1 << 20);
        prop_assert_eq!(&decode(split(&bytes, &places), 1 << 20), &whole);
        prop_assert_eq!(&decode(bytes.chunks(1), 1 << 20), &whole);
    }

    #[test]
    fn chunks_do_not_change_the_size_limit(
        bytes in stream(),
        places in vec(any::<Index>(), 0..12),
        // The limit leaves room for an incomplete byte order mark, which counts until it is complete.
        limit in 3..40_usize,
    ) {
        let whole = decode([&bytes[..]], limit);
        prop_assert_eq!(&decode(split(&bytes, &places), limit), &whole);
        prop_assert_eq!(&decode(bytes.chunks(1), limit), &whole);
    }
}
