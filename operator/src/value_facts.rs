//! What the operator keeps of a value of a Secret or ConfigMap: not the value.
//!
//! Values would fill the memory: people who may create entries can name hundreds of Secrets of 1 MB.

use sha2::{Digest as _, Sha256};
use vmcp_crds::config::{rules, without_line_break};
use vmcp_crds::v1alpha1::FileContent;

/// SHA-256 of a value. It stays in memory: what is written is a MAC of it.
pub(crate) type ValueDigest = [u8; 32];

/// The facts that decisions need. They are `Copy`, so they own no part of the value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValueFacts {
    /// The digest of the whole value.
    pub(crate) digest: ValueDigest,
    /// `None` for a value that is not UTF-8.
    pub(crate) text: Option<TextFacts>,
}

/// The facts about a value that is UTF-8.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TextFacts {
    /// The digest of the value as a password, which is without the line break at its end; `None` for an empty password.
    pub(crate) password: Option<ValueDigest>,
    /// Whether the value ends with a line break.
    pub(crate) has_line_break: bool,
    /// What is wrong with it as the value of a header.
    header_problem: Option<&'static str>,
    has_certificate: bool,
    has_private_key: bool,
}

// A digest of a short value can be reversed by trial.
impl std::fmt::Debug for ValueFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ValueFacts")
    }
}

impl ValueFacts {
    /// Looks at `value`.
    pub(crate) fn of(value: &[u8]) -> Self {
        let digest = Sha256::digest(value).into();
        let text = std::str::from_utf8(value).ok();
        Self {
            digest,
            text: text.map(|text| TextFacts::of(text, digest)),
        }
    }

    /// Says what is wrong with the value as the content of a file, as a phrase that follows "the value".
    pub(crate) fn check(&self, content: FileContent) -> Result<(), &'static str> {
        let text = self.text.ok_or("is not valid UTF-8")?;
        match content {
            FileContent::HeaderValue => text.header_problem.map_or(Ok(()), Err),
            // The gateway parses them, and reports in its status what is wrong inside.
            FileContent::Certificates if !text.has_certificate => Err("has no certificate in PEM"),
            FileContent::PrivateKey if !text.has_private_key => Err("has no private key in PEM"),
            FileContent::Certificates | FileContent::PrivateKey => Ok(()),
        }
    }
}

impl TextFacts {
    fn of(text: &str, digest: ValueDigest) -> Self {
        let password = without_line_break(text);
        let has_line_break = password.len() < text.len();
        let password = match (password.is_empty(), has_line_break) {
            (true, _) => None,
            (false, true) => Some(Sha256::digest(password).into()),
            (false, false) => Some(digest),
        };
        Self {
            password,
            has_line_break,
            // The prefix of a header has been checked before.
            header_problem: rules::header_value("", text).err(),
            has_certificate: text.contains("-----BEGIN CERTIFICATE-----"),
            has_private_key: text.contains("PRIVATE KEY-----"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The password is the same with and without a line break at its end, and the file is not.
    #[test]
    fn line_break_is_no_part_of_password() {
        let (plain, broken) = (ValueFacts::of(b"hunter2"), ValueFacts::of(b"hunter2\n"));
        let text = |facts: ValueFacts| facts.text.unwrap();
        assert_eq!(text(plain).password, text(broken).password);
        assert_ne!(plain.digest, broken.digest);
        assert!(text(broken).has_line_break && !text(plain).has_line_break);
        assert_ne!(text(plain).password, text(ValueFacts::of(b"hunter3")).password);
        for empty in ["", "\n", "\r\n"] {
            assert_eq!(text(ValueFacts::of(empty.as_bytes())).password, None);
        }
        assert!(ValueFacts::of(b"\xff").text.is_none());
    }
}
