//! The reader of server-sent events: where the network cuts the stream makes no difference.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use vmcp_gateway::mcp::sse::{Event, EventTooLarge, SseDecoder};

const REGRESSIONS: &str = "tests/fuzz/regressions/events.txt";

/// All events of a stream that arrives in these chunks, and whether it ended because one was too large.
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

/// Streams made of what streams are made of, and of anything.
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

/// The chunks between these places.
fn cut<'a>(bytes: &'a [u8], places: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(super::config(REGRESSIONS))]

    #[test]
    fn a_stream_in_pieces_holds_the_events_of_the_whole_stream(
        bytes in stream(),
        places in vec(any::<Index>(), 0..12),
    ) {
        let whole = decode([&bytes[..]], 1 << 20);
        prop_assert_eq!(&decode(cut(&bytes, &places), 1 << 20), &whole);
        prop_assert_eq!(&decode(bytes.chunks(1), 1 << 20), &whole);
    }

    #[test]
    fn what_is_too_large_is_too_large_wherever_it_is_cut(
        bytes in stream(),
        places in vec(any::<Index>(), 0..12),
        // A byte order mark is counted as long as it may be something else.
        limit in 3..40_usize,
    ) {
        let whole = decode([&bytes[..]], limit);
        prop_assert_eq!(&decode(cut(&bytes, &places), limit), &whole);
        prop_assert_eq!(&decode(bytes.chunks(1), limit), &whole);
    }
}
