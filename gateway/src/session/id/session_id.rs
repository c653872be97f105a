//! Signed session ids.
//!
//! An id holds what a replica needs before it reads the store: the signing key, the owner, and the incarnation of the
//! store's data. Nothing in it is secret. The signature covers the name of the virtual server, so another server
//! refuses the id.

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

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;
use vmcp_crds::session_key::SessionKey;

use crate::config::ServerName;
use crate::core::Principal;
use crate::mcp::revision::Revision;
use crate::session::client_capabilities::ClientCapabilities;
use crate::session::id::signing_keys::SigningKeys;
use crate::session::record::{Incarnation, NewRecord, PrincipalTag, RecordKey, SessionLife};

/// Version prefix of the layout.
const PREFIX: &str = "v1.";
/// Longer ids are refused unread.
const MAX_ID_BYTES: usize = 256;
const MAC_BYTES: usize = 16;
/// Key id 1, record key 16, incarnation 8, created 4, end 4, principal tag 16, revision 1, capabilities 1.
const SIGNED_BYTES: usize = 51;

/// The content of a session id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::session) struct SessionId {
    pub(in crate::session) key: RecordKey,
    /// Incarnation of the store's data in which the session was created.
    pub(in crate::session) incarnation: Incarnation,
    /// Creation time in seconds since 1970, by the store's clock.
    pub(in crate::session) created: u32,
    /// Absolute deadline, by the same clock.
    pub(in crate::session) end: u32,
    pub(in crate::session) principal_tag: PrincipalTag,
    pub(in crate::session) revision: Revision,
    pub(in crate::session) capabilities: ClientCapabilities,
}

impl SessionId {
    /// Incarnation and absolute deadline of the session that the id names.
    pub(in crate::session) fn life(&self) -> SessionLife {
        SessionLife {
            incarnation: self.incarnation,
            end: self.end,
        }
    }

    /// The parts of the record that the id alone determines.
    pub(in crate::session) fn record(&self) -> NewRecord {
        NewRecord {
            principal_tag: self.principal_tag,
            other_tags: Vec::new(),
            revision: self.revision,
            capabilities: self.capabilities.to_json().into(),
            client_info: r#"{"name":"unknown","version":"0"}"#.into(),
        }
    }

    /// Encodes and signs the id.
    pub(in crate::session) fn sign(&self, key: &SessionKey, server: &ServerName) -> String {
        let mut bytes = Vec::with_capacity(SIGNED_BYTES + MAC_BYTES);
        bytes.push(key.id());
        bytes.extend_from_slice(&self.key.0);
        bytes.extend_from_slice(&self.incarnation.0);
        bytes.extend_from_slice(&self.created.to_be_bytes());
        bytes.extend_from_slice(&self.end.to_be_bytes());
        bytes.extend_from_slice(&self.principal_tag.0);
        bytes.push(self.revision as u8);
        bytes.push(self.capabilities.0);
        let mac = mac(key, server, &bytes);
        bytes.extend_from_slice(&mac);
        format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Verifies `text` for `server` and `principal`. Returns its content and the signing key.
    pub(in crate::session) fn verify(
        text: &[u8],
        keys: &SigningKeys,
        server: &ServerName,
        principal: &Principal,
    ) -> Option<(Self, Arc<SessionKey>)> {
        if text.len() > MAX_ID_BYTES {
            return None;
        }
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(text.strip_prefix(PREFIX.as_bytes())?)
            .ok()?;
        let (signed, signature) = bytes.split_at_checked(SIGNED_BYTES)?;
        let (key_id, fields) = signed.split_first()?;
        let key = keys
            .named(*key_id)
            .find(|key| mac(key, server, signed).ct_eq(signature).into())?;
        let id = Self::read(fields)?;
        let expected = principal_tag(&key, server, principal);
        bool::from(expected.0.ct_eq(&id.principal_tag.0)).then_some((id, key))
    }

    fn read(mut bytes: &[u8]) -> Option<Self> {
        fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
            let (taken, rest) = bytes.split_first_chunk::<N>()?;
            *bytes = rest;
            Some(*taken)
        }
        let bytes = &mut bytes;
        Some(Self {
            key: RecordKey(take(bytes)?),
            incarnation: Incarnation(take(bytes)?),
            created: u32::from_be_bytes(take(bytes)?),
            end: u32::from_be_bytes(take(bytes)?),
            principal_tag: PrincipalTag(take(bytes)?),
            revision: Revision::from_number(take::<1>(bytes)?[0])?,
            capabilities: ClientCapabilities(take::<1>(bytes)?[0]),
        })
    }
}

/// Keyed digest of the principal: identifies it, and reveals nothing to a reader of the store.
pub(in crate::session) fn principal_tag(
    key: &SessionKey,
    server: &ServerName,
    principal: &Principal,
) -> PrincipalTag {
    let [kind, issuer, subject] = principal.identity();
    PrincipalTag(cut(&key.mac(
        "vmcp principal",
        &[server.to_string().as_bytes(), kind, issuer, subject],
    )))
}

fn mac(key: &SessionKey, server: &ServerName, signed: &[u8]) -> [u8; MAC_BYTES] {
    cut(&key.mac("vmcp session id", &[server.to_string().as_bytes(), signed]))
}

fn cut(mac: &[u8; 32]) -> [u8; MAC_BYTES] {
    let mut cut = [0; MAC_BYTES];
    cut.copy_from_slice(&mac[..MAC_BYTES]);
    cut
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn server(name: &str) -> ServerName {
        ServerName {
            namespace: "tools".to_owned(),
            name: name.to_owned(),
        }
    }

    fn id(key: &SessionKey) -> SessionId {
        SessionId {
            key: RecordKey([7; 16]),
            incarnation: Incarnation([1; 8]),
            created: 1_800_000_000,
            end: 1_800_086_400,
            principal_tag: principal_tag(key, &server("a"), &Principal::Anonymous),
            revision: Revision::V2025_06_18,
            capabilities: ClientCapabilities(5),
        }
    }

    #[test]
    fn session_id_round_trips() {
        // A verified id returns what was signed.
        let keys = SigningKeys::random().unwrap();
        let id = id(&keys.current());
        let text = id.sign(&keys.current(), &server("a"));
        assert!((90..=96).contains(&text.len()), "{} characters", text.len());
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(
            SessionId::verify(text.as_bytes(), &keys, &server("a"), &Principal::Anonymous).map(|(id, _)| id),
            Some(id)
        );
    }

    #[test]
    fn session_id_of_another_server_or_key_is_refused() {
        // An id is refused by another server and under other keys.
        let keys = SigningKeys::random().unwrap();
        let text = id(&keys.current()).sign(&keys.current(), &server("a"));
        let verify = |keys: &SigningKeys, name: &str| {
            SessionId::verify(text.as_bytes(), keys, &server(name), &Principal::Anonymous).map(|(id, _)| id)
        };
        assert_eq!(verify(&keys, "b"), None);
        assert_eq!(verify(&SigningKeys::random().unwrap(), "a"), None);
    }

    #[test]
    fn session_id_of_another_principal_is_refused() {
        // Principals have distinct tags, and each one's ids are refused for all others.
        let keys = SigningKeys::random().unwrap();
        let key = keys.current();
        let subject = |issuer: &str, subject: &str| Principal::subject(issuer.into(), subject);
        let principals = [
            Principal::Anonymous,
            subject("https://i", "a"),
            subject("https://i", "b"),
            subject("https://i/", "a"),
            subject("https://", "ia"),
            subject("https://ia", ""),
            subject("", "https://ia"),
            subject("anonymous", ""),
            subject("", "anonymous"),
            subject("https://i\0a", ""),
            subject("https://i", "\0a"),
        ];
        for owner in &principals {
            let owned = SessionId {
                principal_tag: principal_tag(&key, &server("a"), owner),
                ..id(&key)
            };
            let text = owned.sign(&key, &server("a"));
            for caller in &principals {
                let verified = SessionId::verify(text.as_bytes(), &keys, &server("a"), caller);
                assert_eq!(verified.is_some(), owner == caller, "{owner:?} {caller:?}");
            }
        }
    }

    #[test]
    fn session_id_with_any_changed_byte_is_refused() {
        // An id with a changed, missing or added byte is refused.
        let keys = SigningKeys::random().unwrap();
        let text = id(&keys.current()).sign(&keys.current(), &server("a"));
        let verify = |text: &[u8]| {
            SessionId::verify(text, &keys, &server("a"), &Principal::Anonymous).map(|(id, _)| id)
        };
        for index in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            assert_eq!(verify(&changed), None, "byte {index}");
            assert_eq!(verify(&text.as_bytes()[..index]), None, "cut at {index}");
        }
        assert_eq!(verify(format!("{text}A").as_bytes()), None);
        assert_eq!(verify(&[b'v'; 300]), None);
    }

    proptest! {
        #[test]
        fn unsigned_session_id_is_refused(
            bytes in vec(any::<u8>(), 0..300),
            payload in vec(any::<u8>(), 0..100),
        ) {
            let keys = SigningKeys::random().unwrap();
            let verify = |text: &[u8]| SessionId::verify(text, &keys, &server("a"), &Principal::Anonymous);
            prop_assert!(verify(&bytes).is_none());
            prop_assert!(verify(&[PREFIX.as_bytes(), &bytes].concat()).is_none());
            // The layout of an id, with random content.
            let encoded = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(&payload));
            prop_assert!(verify(encoded.as_bytes()).is_none());
            let mut whole = payload;
            whole.resize(SIGNED_BYTES + MAC_BYTES, 0);
            whole[0] = keys.current().id();
            let encoded = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(&whole));
            prop_assert!(verify(encoded.as_bytes()).is_none());
        }

        #[test]
        fn mutated_or_mixed_session_id_is_refused(
            place in any::<Index>(),
            length in 0..8_usize,
            inserted in vec(any::<u8>(), 0..8),
            other in any::<[u8; 16]>(),
        ) {
            let keys = SigningKeys::random().unwrap();
            let verify = |text: &[u8]| SessionId::verify(text, &keys, &server("a"), &Principal::Anonymous);
            let one = id(&keys.current());
            let text = one.sign(&keys.current(), &server("a")).into_bytes();
            let start = place.index(text.len());
            let mut mutated = text.clone();
            mutated.splice(start..(start + length).min(text.len()), inserted);
            prop_assert_eq!(verify(&mutated).is_some(), mutated == text);

            let other = SessionId { key: RecordKey(other), ..one };
            let other = other.sign(&keys.current(), &server("a")).into_bytes();
            let mixed = [&text[..start], &other[start..]].concat();
            prop_assert_eq!(verify(&mixed).is_some(), mixed == text || mixed == other);
        }
    }
}
