//! The authenticated caller of a request.

use std::fmt;
use std::sync::Arc;

/// The caller of a request. A session belongs to one principal, so its id is useless to another caller. Two tokens of one issuer for
/// one subject are the same principal, because clients renew tokens during a session.
///
/// ```
/// use vmcp_gateway::core::Principal;
///
/// let alice = Principal::subject("https://issuer.example".into(), "alice");
/// assert!(!alice.is_anonymous());
/// assert_ne!(alice, Principal::subject("https://other.example".into(), "alice"));
/// assert_eq!(format!("{alice:?}"), "Subject(hidden)");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The caller of a gateway without authentication.
    Anonymous,
    /// The subject of a verified token.
    Subject {
        /// The token's `iss` claim.
        issuer: Arc<str>,
        /// The token's `sub` claim.
        subject: Arc<str>,
    },
}

impl Principal {
    /// Whether the caller is not authenticated. All such callers are one principal.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        *self == Self::Anonymous
    }

    /// Creates the principal for the claims `iss` and `sub` of a token.
    #[must_use]
    pub fn subject(issuer: Arc<str>, subject: &str) -> Self {
        Self::Subject {
            issuer,
            subject: subject.into(),
        }
    }

    /// The parts that identify the principal. A keyed digest takes each part with its length, so no two principals have the same digest.
    #[must_use]
    pub fn identity(&self) -> [&[u8]; 3] {
        match self {
            Self::Anonymous => [b"anonymous", b"", b""],
            Self::Subject { issuer, subject } => [b"subject", issuer.as_bytes(), subject.as_bytes()],
        }
    }
}

/// Hides the subject: a log may contain a principal but not a person's name.
impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Subject { .. } => f.write_str("Subject(hidden)"),
        }
    }
}
