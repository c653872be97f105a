//! Relayed ids: ids and progress tokens of backends' requests, as clients see them.
//!
//! Two backends may both call a request `1`, and the client's answer may reach any replica. So the client gets a
//! signed id that names the backend, its upstream session, and the backend's own id.

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

use serde_json::value::RawValue;

use super::upstream_tag::UpstreamTag;
use crate::core::RelayedIdKind;
use crate::mcp::jsonrpc::RESERVED_ID_PREFIX;
use crate::session::id::session_bound_token::{TokenSigner, put, take};

/// Content of a relayed id.
#[derive(Clone, Debug)]
pub struct RelayedId {
    /// The backend that sent the request.
    pub backend: String,
    /// The upstream session in which it was sent.
    pub upstream: UpstreamTag,
    /// The id or token, as the backend wrote it.
    pub original: Box<RawValue>,
}

impl RelayedIdKind {
    fn purpose(self) -> &'static str {
        match self {
            Self::Request => "vmcp minted request id",
            Self::Progress => "vmcp minted progress token",
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Request => 'r',
            Self::Progress => 'p',
        }
    }
}

/// Signs `original`, as a quoted JSON string. Returns `None` if `original` is too long.
pub(in crate::session) fn sign(
    signer: &TokenSigner<'_>,
    kind: RelayedIdKind,
    backend: &str,
    upstream: UpstreamTag,
    original: &RawValue,
) -> Option<String> {
    let mut content = Vec::new();
    upstream.put(&mut content);
    put(&mut content, backend.as_bytes())?;
    put(&mut content, original.get().as_bytes())?;
    let sealed = signer.sign(kind.purpose(), &content);
    Some(format!("\"{RESERVED_ID_PREFIX}{}{sealed}\"", kind.letter()))
}

/// Verifies and reads an id that [`sign`] issued to this session.
pub(in crate::session) fn read(
    signer: &TokenSigner<'_>,
    kind: RelayedIdKind,
    text: &str,
) -> Option<RelayedId> {
    let sealed = text
        .strip_prefix(RESERVED_ID_PREFIX)?
        .strip_prefix(kind.letter())?;
    let content = signer.verify(kind.purpose(), sealed.as_bytes())?;
    let rest = &mut &content[..];
    let upstream = UpstreamTag::take(rest)?;
    let backend = std::str::from_utf8(take(rest)?).ok()?.to_owned();
    let original = std::str::from_utf8(take(rest)?).ok()?.to_owned();
    Some(RelayedId {
        backend,
        upstream,
        original: RawValue::from_string(original).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmcp_crds::session_key::SessionKey;

    use super::super::upstream_tag::tests::tag;
    use super::*;
    use crate::session::id::session_bound_token::tests::sealed;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn inner(json: &str) -> &str {
        json.trim_matches('"')
    }

    #[test]
    fn relayed_id_round_trips_and_is_deterministic() {
        // A relayed id is read back byte for byte, and every replica makes the same one.
        let key = SessionKey::generate().unwrap();
        for original in ["7", "-1", r#""a\/b""#, r#""ü""#, "1.50", r#""vmcp:rAAAA""#] {
            sealed(&key, "a", 1, |signer| {
                let text = sign(signer, RelayedIdKind::Request, "left", tag(3), &raw(original)).unwrap();
                assert_eq!(
                    sign(signer, RelayedIdKind::Request, "left", tag(3), &raw(original)).unwrap(),
                    text
                );
                let minted = read(signer, RelayedIdKind::Request, inner(&text)).unwrap();
                assert_eq!(
                    (&*minted.backend, minted.upstream, minted.original.get()),
                    ("left", tag(3), original)
                );
                assert!(read(signer, RelayedIdKind::Progress, inner(&text)).is_none());
                assert!(
                    read(
                        signer,
                        RelayedIdKind::Progress,
                        &inner(&text).replacen('r', "p", 1)
                    )
                    .is_none()
                );
            });
        }
    }

    #[test]
    fn relayed_id_depends_on_every_part() {
        // A change of any part gives another relayed id.
        let key = SessionKey::generate().unwrap();
        let id = |session, kind, backend: &str, upstream, original: &str| {
            sealed(&key, "a", session, |signer| {
                sign(signer, kind, backend, tag(upstream), &raw(original))
            })
        };
        let all = [
            id(1, RelayedIdKind::Request, "a", 1, "1"),
            id(2, RelayedIdKind::Request, "a", 1, "1"),
            id(1, RelayedIdKind::Progress, "a", 1, "1"),
            id(1, RelayedIdKind::Request, "b", 1, "1"),
            id(1, RelayedIdKind::Request, "a", 2, "1"),
            id(1, RelayedIdKind::Request, "a", 1, "2"),
            id(1, RelayedIdKind::Request, "a", 1, "\"1\""),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    proptest! {
        #[test]
        fn changed_relayed_id_is_refused(number in any::<i64>(), at in 0_usize..80, flip in 1_u8..128) {
            let key = SessionKey::generate().unwrap();
            sealed(&key, "a", 1, |signer| {
                let text = sign(signer, RelayedIdKind::Request, "left", tag(1), &raw(&number.to_string())).unwrap();
                let mut changed = inner(&text).to_owned().into_bytes();
                let at = at % changed.len();
                changed[at] ^= flip;
                if let Ok(changed) = std::str::from_utf8(&changed) {
                    assert!(read(signer, RelayedIdKind::Request, changed).is_none());
                }
            });
        }

        #[test]
        fn forged_relayed_id_is_refused(text in ".{0,100}") {
            let key = SessionKey::generate().unwrap();
            sealed(&key, "a", 1, |signer| {
                assert!(read(signer, RelayedIdKind::Request, &text).is_none());
                assert!(read(signer, RelayedIdKind::Request, &format!("vmcp:r{text}")).is_none());
            });
        }
    }
}
