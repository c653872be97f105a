//! Labels and annotations of the objects that the operator creates.

use std::collections::BTreeMap;

use kube::ResourceExt as _;

use crate::workload::Workload;

/// Label: the name of the virtual server, or of the server, that an object belongs to.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// Label: the application. It is [`GATEWAY`] for all gateways, and [`MCP_SERVER`] for all servers.
pub const NAME: &str = "app.kubernetes.io/name";
/// Label: the operator that created the object. It is always [`OPERATOR`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label: the part of the application.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Label: the configuration part that a ConfigMap holds, `startup` or `hot`.
pub const CONFIG: &str = "vmcp.dev/config-part";

/// The value of [`NAME`] for the objects of a virtual server.
pub const GATEWAY: &str = "vmcp-gateway";
/// The value of [`NAME`] for the objects of a server.
pub const MCP_SERVER: &str = "mcp-server";
/// The value of [`MANAGED_BY`].
pub const OPERATOR: &str = "vmcp-operator";

/// Annotation of an object that the operator applies: the installation of the operator, as the namespace and the name of its Lease.
pub const INSTALLATION: &str = "vmcp.dev/operator";
/// Annotation of a pod: the hash of the hot configuration that the kubelet should mount.
pub const CONFIG_HASH: &str = "vmcp.dev/config";
/// Annotation of a pod: a MAC of the values that the kubelet should mount, keyed with the session key.
pub const SECRETS_MAC: &str = "vmcp.dev/secrets";
/// Annotation of the pod template: a MAC of the Redis password, keyed with the session key.
pub const PASSWORD_MAC: &str = "vmcp.dev/session-storage-password-mac";
/// Annotation of a Deployment whose pods could not be created: the time at which the operator last made Kubernetes try again.
pub const CREATION_RETRY: &str = "vmcp.dev/pod-creation-retry";
/// Annotation of a virtual server: a new value asks for new session keys.
pub const ROTATE_SESSION_KEYS: &str = "vmcp.dev/rotate-session-keys";
/// Annotation of a virtual server: with the value `true`, it takes over the objects that a deleted virtual server of the same name has left.
pub const ADOPT_ORPHANS: &str = "vmcp.dev/adopt-orphans";
/// Annotation of the Secret with the session keys: the request ([`ROTATE_SESSION_KEYS`]) that the last rotation answered.
pub const ROTATION: &str = "vmcp.dev/session-key-rotation";
/// Annotation of the Secret with the session keys: the time of the last rotation.
pub const ROTATED_AT: &str = "vmcp.dev/session-keys-rotated-at";
/// Annotation of the Secret with session keys: set if they replace lost keys, which running pods may still have.
pub const REPLACES_LOST_KEYS: &str = "vmcp.dev/replaces-lost-session-keys";
/// Annotation of the Secret with the session keys: the last request that was refused.
pub const REFUSED_ROTATION: &str = "vmcp.dev/refused-session-key-rotation";

/// Label selector for the objects that the operator created.
pub const MANAGED_SELECTOR: &str = "app.kubernetes.io/managed-by=vmcp-operator";

/// The labels of every object of a virtual server, or of a server.
#[must_use]
pub fn all<W: Workload>(server: &W) -> BTreeMap<String, String> {
    let mut labels = selector(server);
    labels.insert(MANAGED_BY.to_owned(), OPERATOR.to_owned());
    labels.insert(COMPONENT.to_owned(), W::COMPONENT.to_owned());
    labels.insert("app.kubernetes.io/part-of".to_owned(), "vmcp".to_owned());
    labels
}

/// The labels that select the pods of a virtual server, or of a server. They must never change: a Deployment's selector is immutable.
#[must_use]
pub fn selector<W: Workload>(server: &W) -> BTreeMap<String, String> {
    BTreeMap::from([
        (NAME.to_owned(), W::APPLICATION.to_owned()),
        (INSTANCE.to_owned(), server.name_any()),
    ])
}

/// [`selector`] in the API's text form, for example `a=b,c=d`.
#[must_use]
pub fn selector_text<W: Workload>(server: &W) -> String {
    let pairs = selector(server);
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}
