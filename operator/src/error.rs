//! Errors of reconciling.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;

use crate::kube_error::describe;
use crate::owner;

/// Why a reconcile, or another operation on the cluster, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server rejected the request, or did not answer.
    #[error("cannot {action} {object}: {}", describe(source))]
    Api {
        /// The attempted operation, for example `apply`.
        action: &'static str,
        /// Kind, namespace and name of the object.
        object: String,
        /// The client library's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object with a child's name exists and belongs to another owner.
    #[error("{object} already exists and does not belong to this {kind} ({controller}): {remedy}")]
    NotOwned {
        /// Kind, namespace and name of the object.
        object: String,
        /// The object's controller, in words.
        controller: String,
        /// The kind of the wanted owner.
        kind: String,
        /// What resolves the conflict.
        remedy: String,
        /// Whether the garbage collector will delete the object.
        is_temporary: bool,
    },
    /// An object with a child's name is being deleted.
    #[error("{object} is being deleted; it is created again after that")]
    BeingDeleted {
        /// Kind, namespace and name of the object.
        object: String,
    },
    /// A text is not a valid name of an object.
    #[error("{0}")]
    InvalidName(String),
    /// The operating system's random number generator failed.
    #[error("cannot generate {purpose}: the operating system's random number generator failed: {cause}")]
    Randomness {
        /// What the random bytes were for.
        purpose: &'static str,
        /// The operating system's error.
        cause: String,
    },
    /// A watch ended before its first list was complete. This happens only while the operator shuts down.
    #[error("the operator is shutting down")]
    ShuttingDown,
}

impl Error {
    /// Wraps an error of a request to the API server.
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

    /// Wraps an error of a request for an object without a namespace.
    pub fn cluster_api<K: Resource<DynamicType = ()>>(
        action: &'static str,
        name: &str,
        source: kube::Error,
    ) -> Self {
        Self::Api {
            action,
            object: format!("{} {name}", K::kind(&())),
            source: Box::new(source),
        }
    }

    /// The error for an object that is being deleted.
    pub fn being_deleted<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> Self {
        Self::BeingDeleted {
            object: format!("{} {namespace}/{name}", K::kind(&())),
        }
    }

    /// The error for an `existing` object that has the name of the child `wanted` and another controller.
    pub fn not_owned<K: Resource<DynamicType = ()>>(
        namespace: &str,
        name: &str,
        wanted: &ObjectMeta,
        existing: &ObjectMeta,
    ) -> Self {
        let is_temporary = owner::is_left_by_predecessor(wanted, existing);
        let kind = owner::controller(wanted).map_or_else(String::new, |owner| owner.kind.clone());
        let controller = owner::controller(existing).map_or_else(
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
            controller,
            remedy: if is_temporary {
                format!("Kubernetes will delete it with its owner, a deleted {kind} of the same name")
            } else if owner::is_orphan(wanted, existing) {
                format!(
                    "a deleted {kind} of the same name has left it; take it over with the annotation vmcp.dev/adopt-orphans=true of this \
                     {kind}, or delete it"
                )
            } else {
                format!("delete or rename it, or create this {kind} under another name")
            },
            kind,
            is_temporary,
        }
    }

    /// Whether the API server would reject the same request again, for example because of a quota, a policy or a missing
    /// permission. The status of the virtual server reports such an error at once, and any other at the second failure.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        matches!(self.code(), Some(400..=499)) && !self.is_conflict() && self.code() != Some(429)
    }

    /// Whether an object with a child's name belongs to another owner, or is being deleted.
    #[must_use]
    pub fn is_not_owned(&self) -> bool {
        matches!(self, Self::NotOwned { .. } | Self::BeingDeleted { .. })
    }

    /// Whether the object was changed or deleted concurrently. The next reconcile resolves it.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self.code(), Some(404 | 409 | 410))
    }

    /// Whether the operator lacks a right for the request.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }

    /// Whether the API server does not know the kind or the object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether the object already existed (of a create), or has changed since it was read (of an update).
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.code() == Some(409)
    }

    /// The value of the metric label `error`.
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
            | Self::ShuttingDown => None,
        }
    }
}

/// The HTTP status of a rejection by the API server.
fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
