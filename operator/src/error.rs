//! What can go wrong between the operator and the API server.

use kube::Resource;

/// A request to the API server that failed: what was tried, on what, and why not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or did not answer.
    #[error("cannot {action} {object}: {}", explain(source))]
    Api {
        /// What was tried, for example `apply`.
        action: &'static str,
        /// Kind and name of the object.
        object: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// The operating system gave no randomness for a key.
    #[error("cannot make session keys: the operating system gives no randomness: {0}")]
    Randomness(String),
    /// A watch ended before it had anything. This happens only while the operator ends.
    #[error("the operator is ending")]
    Ending,
}

impl Error {
    /// An error of the API server.
    pub fn api<K: Resource<DynamicType = ()>>(
        action: &'static str,
        namespace: &str,
        name: &str,
        source: kube::Error,
    ) -> Self {
        Self::Api {
            action,
            object: format!("{} {namespace}/{name}", K::kind(&())),
            source: Box::new(source),
        }
    }

    /// Whether the API server understood the request and will refuse it again: a quota, a policy, a missing right. Somebody
    /// has to do something, so the virtual server's status says it.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self.code(), Some(400..=499)) && !self.is_conflict() && self.code() != Some(429)
    }

    /// Whether somebody else changed or removed the object at the same time; to look again settles it.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self.code(), Some(404 | 409 | 410))
    }

    /// A word for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self.code() {
            Some(404 | 409 | 410) => "conflict",
            Some(429) => "throttled",
            Some(400..=499) => "refused",
            Some(_) => "server",
            None => "unreachable",
        }
    }

    fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => code(source),
            Self::Randomness(_) | Self::Ending => None,
        }
    }
}

/// The HTTP status with which the API server refused.
#[must_use]
pub fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The error's own words, without the dump of the whole answer.
fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    }
}
