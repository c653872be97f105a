//! Who asks.

use std::fmt;
use std::sync::Arc;

/// Who asks. Sessions are bound to it: an id is useless to anybody else. Two tokens of one issuer for one subject are one
/// principal, because tokens are renewed while a session goes on.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Nobody in particular: the gateway does not authenticate.
    Anonymous,
    /// Whom an issuer of tokens vouches for.
    Subject {
        /// The issuer, as it stands in `iss`.
        issuer: Arc<str>,
        /// The issuer's name for it, as it stands in `sub`.
        subject: Arc<str>,
    },
}

impl Principal {
    /// Whether nothing is known of who it is, so that all such clients are one.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        *self == Self::Anonymous
    }

    /// The principal that `issuer` calls `subject`.
    #[must_use]
    pub fn subject(issuer: Arc<str>, subject: &str) -> Self {
        Self::Subject {
            issuer,
            subject: subject.into(),
        }
    }

    /// The parts that identify the principal, for a keyed digest that keeps them apart: no two principals have the same.
    #[must_use]
    pub fn identity(&self) -> [&[u8]; 3] {
        match self {
            Self::Anonymous => [b"anonymous", b"", b""],
            Self::Subject { issuer, subject } => [b"subject", issuer.as_bytes(), subject.as_bytes()],
        }
    }
}

/// Says no name: a principal may stand in a log, and who a person is may not.
impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Subject { .. } => f.write_str("Subject(hidden)"),
        }
    }
}
