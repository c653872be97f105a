//! What can go wrong between the operator and the API server.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;

use crate::api_server::explain;
use crate::owner;

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
    /// An object of a child's name is there, and is not this virtual server's.
    #[error(
        "{object} is there already and is not of this VirtualMCPServer ({whose}), so it is left alone: {remedy}"
    )]
    NotOwned {
        /// Kind and name of the object.
        object: String,
        /// Who controls it.
        whose: String,
        /// What happens, or has to happen, for the operator to go on.
        remedy: &'static str,
        /// Whether it goes by itself.
        goes: bool,
    },
    /// An object of a child's name is there, and about to go.
    #[error("{object} is being deleted, and is made anew when it is gone")]
    BeingDeleted {
        /// Kind and name of the object.
        object: String,
    },
    /// A text that should name an object does not.
    #[error("{0}")]
    InvalidName(String),
    /// The operating system gave no randomness.
    #[error("cannot make {wanted}: the operating system gives no randomness: {why}")]
    Randomness {
        /// What it was needed for.
        wanted: &'static str,
        /// Why there is none.
        why: String,
    },
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

    /// The object of the child's name is being deleted.
    pub fn being_deleted<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> Self {
        Self::BeingDeleted {
            object: format!("{} {namespace}/{name}", K::kind(&())),
        }
    }

    /// The object `there` has the name of the child `wanted`, and another controller.
    pub fn not_owned<K: Resource<DynamicType = ()>>(
        namespace: &str,
        name: &str,
        wanted: &ObjectMeta,
        there: &ObjectMeta,
    ) -> Self {
        let goes = owner::is_left_by_predecessor(wanted, there);
        let whose = owner::controller(there).map_or_else(
            || "it has no controller".to_owned(),
            |owner| {
                format!(
                    "its controller is {} {}, uid {}",
                    owner.kind, owner.name, owner.uid
                )
            },
        );
        Self::NotOwned {
            object: format!("{} {namespace}/{name}", K::kind(&())),
            whose,
            remedy: if goes {
                "it goes with its owner, a VirtualMCPServer of this name that was deleted"
            } else {
                "delete it or give it another name, or make this VirtualMCPServer under another name"
            },
            goes,
        }
    }

    /// Whether the API server understood the request and will refuse it again: a quota, a policy, a missing right. Somebody
    /// has to do something, so the virtual server's status says it.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self.code(), Some(400..=499)) && !self.is_conflict() && self.code() != Some(429)
    }

    /// Whether an object is in the way that is somebody else's, or is being deleted.
    #[must_use]
    pub fn is_not_owned(&self) -> bool {
        matches!(self, Self::NotOwned { .. } | Self::BeingDeleted { .. })
    }

    /// Whether somebody else changed or removed the object at the same time; to look again settles it.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self.code(), Some(404 | 409 | 410))
    }

    /// Whether an object of that name was there already, or has changed since it was read.
    #[must_use]
    pub fn is_lost_race(&self) -> bool {
        self.code() == Some(409)
    }

    /// A word for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        if self.is_not_owned() {
            return "not_owned";
        }
        if matches!(self, Self::InvalidName(_)) {
            return "invalid_name";
        }
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
            Self::NotOwned { .. }
            | Self::BeingDeleted { .. }
            | Self::InvalidName(_)
            | Self::Randomness { .. }
            | Self::Ending => None,
        }
    }
}

/// The HTTP status with which the API server refused.
fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
