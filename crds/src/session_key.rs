//! The keys that sign session ids, in the format of the Secret and of the files mounted from it.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretBox};
use sha2::{Digest as _, Sha256};

/// Name of the file, and of the Secret's entry, with the key that signs new session ids.
pub const CURRENT: &str = "current";
/// Name of the file with the key that becomes `current` at the next rotation, so that every pod knows a key before it is used.
pub const NEXT: &str = "next";
/// Name of the file with the key that was `current` before the last rotation.
pub const PREVIOUS: &str = "previous";

/// The length of a key in bytes.
pub const KEY_BYTES: usize = 32;

/// A key that signs session ids. Its text form is base64url without padding.
pub struct SessionKey {
    bytes: SecretBox<[u8; KEY_BYTES]>,
    id: u8,
}

/// The error for a text that is not a key. The message never contains the text.
#[derive(Debug, thiserror::Error)]
#[error(
    "not a session key: expected {KEY_BYTES} bytes in base64url without padding, which is the output of `vmcp-gateway keygen`"
)]
pub struct InvalidKey;

impl SessionKey {
    /// Generates a key with the operating system's random number generator.
    ///
    /// # Errors
    /// When the random number generator fails.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self::new(bytes))
    }

    /// Parses the text form of a key. White space around it is ignored, because editors and shells add it.
    ///
    /// # Errors
    /// When the text is not a key.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(text.trim())
            .map_err(|_| InvalidKey)?;
        Ok(Self::new(bytes.try_into().map_err(|_| InvalidKey)?))
    }

    fn new(bytes: [u8; KEY_BYTES]) -> Self {
        let id = Sha256::new()
            .chain_update(b"vmcp key id")
            .chain_update(bytes)
            .finalize()[0];
        Self {
            bytes: SecretBox::new(Box::new(bytes)),
            id,
        }
    }

    /// The byte in a session id that identifies its key. Two keys may have the same id; then the signature decides.
    #[must_use]
    pub fn id(&self) -> u8 {
        self.id
    }

    /// The text form, for a Secret or a file.
    #[must_use]
    pub fn to_text(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.bytes.expose_secret())
    }

    /// HMAC-SHA-256 of `label` and `parts` under this key. Each part is preceded by its length, so that no two lists of
    /// parts give the same input.
    #[must_use]
    pub fn mac(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        // HMAC pads the key to the block size. Padding it here makes the length correct by type.
        let mut block = Zeroizing::new([0; 64]);
        block[..KEY_BYTES].copy_from_slice(self.bytes.expose_secret());
        let mut mac = Hmac::<Sha256>::new((&*block).into());
        for part in std::iter::once(label.as_bytes()).chain(parts.iter().copied()) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// The bearer token for `/status` of the gateways of the virtual server `namespace`/`name`. The operator and the gateway can compute
    /// it, because both can read the session keys.
    #[must_use]
    pub fn status_token(&self, namespace: &str, name: &str) -> String {
        let mac = self.mac("vmcp status token", &[namespace.as_bytes(), name.as_bytes()]);
        BASE64_URL_SAFE_NO_PAD.encode(mac)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({:02x}, secret)", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_round_trips_through_text() {
        let key = SessionKey::generate().unwrap();
        let read = SessionKey::parse(&format!("{}\n", key.to_text())).unwrap();
        assert_eq!(read.id(), key.id());
        assert_eq!(read.mac("x", &[b"y"]), key.mac("x", &[b"y"]));
    }

    #[test]
    fn invalid_key_is_rejected_without_being_repeated() {
        for text in ["", "hunter2", "AAAA"] {
            let error = SessionKey::parse(text).unwrap_err().to_string();
            assert!(
                error.contains("keygen") && (text.is_empty() || !error.contains(text)),
                "{error}"
            );
        }
    }

    #[test]
    fn debug_output_hides_key() {
        let key = SessionKey::generate().unwrap();
        assert!(!format!("{key:?}").contains(&key.to_text()));
    }

    #[test]
    fn moving_a_byte_between_parts_changes_mac() {
        let key = SessionKey::generate().unwrap();
        assert_ne!(key.mac("x", &[b"ab", b"c"]), key.mac("x", &[b"a", b"bc"]));
    }
}
