//! SSE event ids: tell where to resume after a stream broke.
//!
//! An id on the session's GET stream holds the position at each backend. An id on a call's stream holds the call and
//! its position at the one backend that runs it. Any replica can resume from it.

// This module parses untrusted input.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

use std::collections::BTreeMap;

use http::HeaderValue;
use serde_json::value::RawValue;

use super::upstream_tag::UpstreamTag;
use crate::session::id::session_bound_token::{TokenSigner, put, take};

/// Maximum length of an id: a client sends its last one in a header.
const MAX_BYTES: usize = 1024;
/// Version prefix of the layout.
const PREFIX: &str = "v1.";
const PURPOSE: &str = "vmcp event id";
const OWN_STREAM: u8 = 1;
const CALL: u8 = 2;

/// A position in the stream of one upstream session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamPosition {
    /// The upstream session. The position means nothing in another one.
    pub upstream: UpstreamTag,
    /// The id of the last event, as the backend wrote it.
    pub event: HeaderValue,
}

/// Positions of a session's GET stream, by backend.
pub type StreamPositions = BTreeMap<String, UpstreamPosition>;

/// A call whose response stream broke.
#[derive(Clone, Debug)]
pub struct BrokenCall {
    /// The backend that runs the call.
    pub backend: String,
    /// The upstream session in which the call was sent.
    pub upstream: UpstreamTag,
    /// The id of the client's request, as the client wrote it.
    pub request: Box<RawValue>,
    /// The last event id. Empty if the backend gives none; the call cannot be resumed then.
    pub event: Option<HeaderValue>,
}

/// What an event id refers to.
#[derive(Clone, Debug)]
pub enum ResumePoint {
    /// The session's GET stream.
    OwnStream(StreamPositions),
    /// The response stream of a call.
    Call(BrokenCall),
}

/// Event id of the GET stream at `positions`; `None` if it would be too long.
pub(in crate::session) fn of_own_stream(
    signer: &TokenSigner<'_>,
    positions: &StreamPositions,
) -> Option<String> {
    let mut content = vec![OWN_STREAM];
    for (backend, position) in positions {
        position.upstream.put(&mut content);
        put(&mut content, backend.as_bytes())?;
        put(&mut content, position.event.as_bytes())?;
    }
    finish(signer, &content)
}

/// Event id of a call's stream; `None` if it would be too long.
pub(in crate::session) fn of_call(
    signer: &TokenSigner<'_>,
    backend: &str,
    upstream: UpstreamTag,
    request: &RawValue,
    event: Option<&HeaderValue>,
) -> Option<String> {
    let mut content = vec![CALL];
    upstream.put(&mut content);
    put(&mut content, backend.as_bytes())?;
    put(&mut content, request.get().as_bytes())?;
    if let Some(event) = event {
        put(&mut content, event.as_bytes())?;
    }
    finish(signer, &content)
}

fn finish(signer: &TokenSigner<'_>, content: &[u8]) -> Option<String> {
    // Base64 turns three bytes into four. Checked first, so that nothing too long is encoded.
    if content.len() > MAX_BYTES {
        return None;
    }
    let id = format!("{PREFIX}{}", signer.sign(PURPOSE, content));
    (id.len() <= MAX_BYTES).then_some(id)
}

/// Reads an event id that was issued to this session.
pub(in crate::session) fn read(signer: &TokenSigner<'_>, id: &[u8]) -> Option<ResumePoint> {
    if id.len() > MAX_BYTES {
        return None;
    }
    let content = signer.verify(PURPOSE, id.strip_prefix(PREFIX.as_bytes())?)?;
    let (kind, mut rest) = content.split_first()?;
    let rest = &mut rest;
    let backend = |part: &[u8]| std::str::from_utf8(part).ok().map(str::to_owned);
    match *kind {
        OWN_STREAM => {
            let mut positions = StreamPositions::new();
            while !rest.is_empty() {
                let upstream = UpstreamTag::take(rest)?;
                let name = backend(take(rest)?)?;
                let event = HeaderValue::from_bytes(take(rest)?).ok()?;
                positions.insert(name, UpstreamPosition { upstream, event });
            }
            Some(ResumePoint::OwnStream(positions))
        }
        CALL => {
            let upstream = UpstreamTag::take(rest)?;
            let backend = backend(take(rest)?)?;
            let request = RawValue::from_string(std::str::from_utf8(take(rest)?).ok()?.to_owned()).ok()?;
            let event = match take(rest) {
                None => None,
                Some(event) => Some(HeaderValue::from_bytes(event).ok()?),
            };
            Some(ResumePoint::Call(BrokenCall {
                backend,
                upstream,
                request,
                event,
            }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmcp_crds::session_key::SessionKey;

    use super::super::upstream_tag::tests::tag;
    use super::*;
    use crate::session::id::session_bound_token::tests::sealed;

    fn positions(of: &[(&str, u8, &str)]) -> StreamPositions {
        of.iter()
            .map(|(backend, upstream, event)| {
                let event = HeaderValue::from_str(event).unwrap();
                let upstream = tag(*upstream);
                ((*backend).to_owned(), UpstreamPosition { upstream, event })
            })
            .collect()
    }

    #[test]
    fn stream_event_id_holds_every_position() {
        // The event id of a GET stream returns the position at every backend.
        let key = SessionKey::generate().unwrap();
        for given in [
            positions(&[]),
            positions(&[("left", 1, "0/1"), ("right", 7, "abc_42")]),
        ] {
            sealed(&key, "a", 1, |signer| {
                let id = of_own_stream(signer, &given).unwrap();
                assert!(id.bytes().all(|byte| byte.is_ascii_graphic()), "{id}");
                let Some(ResumePoint::OwnStream(read)) = read(signer, id.as_bytes()) else {
                    panic!("{id}")
                };
                assert_eq!(read, given);
            });
        }
    }

    #[test]
    fn call_event_id_holds_call_and_position() {
        // The event id of a call returns the call and its position.
        let key = SessionKey::generate().unwrap();
        let request = RawValue::from_string(r#""a\/b""#.to_owned()).unwrap();
        for event in [None, Some(HeaderValue::from_static("5_x"))] {
            sealed(&key, "a", 1, |signer| {
                let id = of_call(signer, "left", tag(2), &request, event.as_ref()).unwrap();
                let Some(ResumePoint::Call(call)) = read(signer, id.as_bytes()) else {
                    panic!("{id}")
                };
                assert_eq!((&*call.backend, call.upstream), ("left", tag(2)));
                assert_eq!(call.request.get(), request.get());
                assert_eq!(call.event, event);
            });
        }
    }

    #[test]
    fn event_id_too_long_for_a_header_is_not_issued() {
        // No event id is issued that would be too long for a header.
        let key = SessionKey::generate().unwrap();
        let long = "x".repeat(700);
        sealed(&key, "a", 1, |signer| {
            assert!(of_own_stream(signer, &positions(&[("left", 1, &long)])).is_some());
            assert!(of_own_stream(signer, &positions(&[("left", 1, &long), ("right", 1, &long)])).is_none());
        });
    }

    proptest! {
        #[test]
        fn foreign_or_changed_event_id_is_refused(
            event in "[!-~]{1,40}", at in 0_usize..200, flip in 1_u8..128,
        ) {
            let key = SessionKey::generate().unwrap();
            let given = positions(&[("left", 1, &event)]);
            let id = sealed(&key, "a", 1, |signer| of_own_stream(signer, &given)).unwrap();
            assert!(sealed(&key, "a", 2, |signer| read(signer, id.as_bytes())).is_none());
            let mut changed = id.into_bytes();
            let at = at % changed.len();
            changed[at] ^= flip;
            assert!(sealed(&key, "a", 1, |signer| read(signer, &changed)).is_none());
        }

        #[test]
        fn forged_event_id_is_refused(id in prop::collection::vec(any::<u8>(), 0..200)) {
            let key = SessionKey::generate().unwrap();
            sealed(&key, "a", 1, |signer| {
                assert!(read(signer, &id).is_none());
                assert!(read(signer, &[b"v1.", &id[..]].concat()).is_none());
            });
        }
    }
}
