//! Upstream tag: names an upstream session inside a signed token.
//!
//! The generation alone is not enough. A record that was lost and recovered from the session's id counts generations
//! from the start again, so an old token would match a new upstream session. So the tag is a digest of the origin,
//! the upstream session's id, and the generation (some servers give the same id twice). Every replica computes the
//! same tag. The digest is keyed because the id is a secret.

use crate::backend::UpstreamSession;
use crate::session::id::session_bound_token::TokenSigner;

const BYTES: usize = 8;
const PURPOSE: &str = "vmcp upstream session";

/// Identifies one upstream session of a client session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamTag([u8; BYTES]);

impl UpstreamTag {
    /// The tag of the upstream session that `origin` created, with this `generation`.
    pub(in crate::session) fn new(
        signer: &TokenSigner<'_>,
        origin: &str,
        upstream: &UpstreamSession,
        generation: u64,
    ) -> Self {
        let id = upstream.id.as_ref().map_or(&[][..], |id| id.as_bytes());
        let mut content = Vec::with_capacity(origin.len().saturating_add(id.len()).saturating_add(17));
        content.extend_from_slice(&generation.to_be_bytes());
        content.push(u8::from(upstream.id.is_some()));
        content.extend_from_slice(&(origin.len() as u64).to_be_bytes());
        content.extend_from_slice(origin.as_bytes());
        content.extend_from_slice(id);
        let mut tag = [0; BYTES];
        tag.copy_from_slice(&signer.mac(PURPOSE, &content)[..BYTES]);
        Self(tag)
    }

    /// Appends the tag to `bytes`.
    pub(in crate::session) fn put(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.0);
    }

    /// Takes a tag that [`Self::put`] appended.
    pub(in crate::session) fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(Self(*tag))
    }
}

#[cfg(test)]
pub(in crate::session) mod tests {
    use http::HeaderValue;
    use vmcp_crds::session_key::SessionKey;

    use super::*;
    use crate::mcp::revision::Revision;
    use crate::session::id::session_bound_token::tests::sealed;

    /// A tag for tests.
    pub(in crate::session) fn tag(number: u8) -> UpstreamTag {
        UpstreamTag([number; BYTES])
    }

    fn upstream(id: Option<&'static str>) -> UpstreamSession {
        UpstreamSession {
            id: id.map(HeaderValue::from_static),
            revision: Revision::LATEST,
            address: None,
            cookies: crate::backend::Cookies::default(),
        }
    }

    #[test]
    fn upstream_tag_is_deterministic_and_unique() {
        // Every replica computes the same tag, and each upstream session has its own.
        let key = SessionKey::generate().unwrap();
        let tag = |session, origin, id, generation| {
            sealed(&key, "a", session, |signer| {
                UpstreamTag::new(signer, origin, &upstream(id), generation)
            })
        };
        let first = || tag(1, "http://a", Some("x"), 1);
        assert_eq!(first(), first());
        let others = [
            tag(2, "http://a", Some("x"), 1),
            tag(1, "http://b", Some("x"), 1),
            tag(1, "http://a", Some("y"), 1),
            tag(1, "http://ax", Some(""), 1),
            tag(1, "http://a", None, 1),
            tag(1, "http://a", Some(""), 1),
            tag(1, "http://a", Some("x"), 2),
        ];
        for (at, one) in others.iter().enumerate() {
            assert_ne!(*one, first());
            assert!(others[at + 1..].iter().all(|other| one != other));
        }
    }
}
