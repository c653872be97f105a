//! Signed tokens: short strings that a client gets and sends back to any replica, such as relayed ids and event ids.
//!
//! A token holds all that is needed to act on it, so it does not depend on one process. The signature binds it to the
//! session and to one purpose, so a client cannot forge a token or use it in another session. Tokens contain nothing
//! secret and nothing random: every replica makes the same token from the same input.

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

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;
use vmcp_crds::session_key::SessionKey;

use crate::config::ServerName;
use crate::session::record::RecordKey;

const MAC_BYTES: usize = 16;

/// Signs and verifies the tokens of one session, with the key that its id names. The key stays the same while keys
/// rotate.
#[derive(Debug)]
pub(in crate::session) struct TokenSigner<'a> {
    pub(in crate::session) key: &'a SessionKey,
    pub(in crate::session) server: &'a ServerName,
    pub(in crate::session) session: &'a RecordKey,
}

impl TokenSigner<'_> {
    /// Returns `content` with a signature that covers `purpose`, as text.
    pub(in crate::session) fn sign(&self, purpose: &str, content: &[u8]) -> String {
        let mac = self.mac(purpose, content);
        BASE64_URL_SAFE_NO_PAD.encode([content, &mac].concat())
    }

    /// Verifies `text` for this session and `purpose` and returns the content.
    pub(in crate::session) fn verify(&self, purpose: &str, text: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let content = bytes.len().checked_sub(MAC_BYTES)?;
        let (signed, signature) = bytes.split_at_checked(content)?;
        let genuine: bool = self.mac(purpose, signed).ct_eq(signature).into();
        bytes.truncate(content);
        genuine.then_some(bytes)
    }

    /// Keyed digest of `content` for this session and `purpose`.
    pub(in crate::session) fn mac(&self, purpose: &str, content: &[u8]) -> [u8; MAC_BYTES] {
        let server = self.server.to_string();
        let whole = self
            .key
            .mac(purpose, &[server.as_bytes(), &self.session.0, content]);
        let mut cut = [0; MAC_BYTES];
        cut.copy_from_slice(&whole[..MAC_BYTES]);
        cut
    }
}

/// Appends `part` with a length prefix, so that parts are unambiguous. Returns `None` if it is too long.
pub(in crate::session) fn put(bytes: &mut Vec<u8>, part: &[u8]) -> Option<()> {
    bytes.extend_from_slice(&u16::try_from(part.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(part);
    Some(())
}

/// Takes a part that [`put`] appended.
pub(in crate::session) fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (part, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    *bytes = rest;
    Some(part)
}

#[cfg(test)]
pub(in crate::session) mod tests {
    use super::*;

    /// Runs `act` with a signer, for tests.
    pub(in crate::session) fn sealed<T>(
        key: &SessionKey,
        server: &str,
        session: u8,
        use_it: impl FnOnce(&TokenSigner<'_>) -> T,
    ) -> T {
        let server = ServerName {
            namespace: "tools".to_owned(),
            name: server.to_owned(),
        };
        use_it(&TokenSigner {
            key,
            server: &server,
            session: &RecordKey([session; 16]),
        })
    }

    #[test]
    fn token_verifies_only_in_its_own_context() {
        // A token verifies only with the same key, server, session and purpose.
        let (key, other) = (SessionKey::generate().unwrap(), SessionKey::generate().unwrap());
        let text = sealed(&key, "a", 1, |signer| signer.sign("x", b"content"));
        let open = |key: &SessionKey, server: &str, session: u8, purpose: &str| {
            sealed(key, server, session, |signer| {
                signer.verify(purpose, text.as_bytes())
            })
        };
        assert_eq!(open(&key, "a", 1, "x").as_deref(), Some(&b"content"[..]));
        assert_eq!(open(&other, "a", 1, "x"), None);
        assert_eq!(open(&key, "b", 1, "x"), None);
        assert_eq!(open(&key, "a", 2, "x"), None);
        assert_eq!(open(&key, "a", 1, "y"), None);
        assert_eq!(sealed(&key, "a", 1, |signer| signer.sign("x", b"content")), text);
    }

    #[test]
    fn length_prefixes_keep_parts_apart() {
        // Length-prefixed parts are read back as they were written.
        let mut bytes = Vec::new();
        put(&mut bytes, b"ab").unwrap();
        put(&mut bytes, b"").unwrap();
        let mut rest = &bytes[..];
        assert_eq!(take(&mut rest), Some(&b"ab"[..]));
        assert_eq!(take(&mut rest), Some(&b""[..]));
        assert_eq!(take(&mut rest), None);
        assert!(put(&mut bytes, &vec![0; 70_000]).is_none());
    }
}
