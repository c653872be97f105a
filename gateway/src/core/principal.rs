//! Who asks.

/// Who asks. Sessions are bound to it: an id is useless to anybody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Nobody in particular: the gateway does not authenticate.
    Anonymous,
}

impl Principal {
    /// Whether nothing is known of who it is, so that all such clients are one.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        match self {
            Self::Anonymous => true,
        }
    }

    /// The bytes that identify the principal, for a keyed digest.
    #[must_use]
    pub fn identity(&self) -> &[u8] {
        match self {
            Self::Anonymous => b"anonymous",
        }
    }
}
