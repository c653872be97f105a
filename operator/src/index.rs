//! Which virtual servers an object matters to.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt as _};
use vmcp_crds::v1alpha1::{CHILD_PREFIX, MCPGroup, VirtualMCPServer};

use crate::desired::{labels, names};
use crate::resolve::password_ref;

/// The virtual servers, as the watch shows them.
pub type Servers = Store<VirtualMCPServer>;
type Refs = Vec<ObjectRef<VirtualMCPServer>>;

/// The server that an object of ours belongs to, by its label: pods and ReplicaSets have other owners.
#[must_use]
pub fn by_label<K: Resource>(object: &K) -> Refs {
    let namespace = object.namespace().unwrap_or_default();
    let name = object.labels().get(labels::INSTANCE);
    name.map(|name| ObjectRef::new(name).within(&namespace))
        .into_iter()
        .collect()
}

/// The servers that name a group.
#[must_use]
pub fn by_group(servers: &Servers, group: &MCPGroup) -> Refs {
    in_namespace(servers, group, |server| {
        server.spec.group_ref.name == group.name_any()
    })
}

/// The servers that a member of a group may matter to: all of its namespace, because it may just have left their group.
#[must_use]
pub fn by_member<K: Resource>(servers: &Servers, member: &K) -> Refs {
    in_namespace(servers, member, |_| true)
}

/// The servers that need a Secret.
#[must_use]
pub fn by_secret(servers: &Servers, secret: &PartialObjectMeta<Secret>) -> Refs {
    let name = secret.name_any();
    in_namespace(servers, secret, |server| {
        password_ref(server).is_some_and(|reference| reference.name == name)
            || names::session_keys(server) == name
    })
}

/// The servers that an autoscaler scales.
#[must_use]
pub fn by_autoscaler(servers: &Servers, autoscaler: &HorizontalPodAutoscaler) -> Refs {
    in_namespace(servers, autoscaler, |server| scales(autoscaler, server))
}

/// Whether an autoscaler of the same namespace scales `server`, through the server itself or through its Deployment.
#[must_use]
pub fn scales(autoscaler: &HorizontalPodAutoscaler, server: &VirtualMCPServer) -> bool {
    let name = server.name_any();
    let target = &autoscaler.spec.scale_target_ref;
    match target.kind.as_str() {
        "VirtualMCPServer" => target.name == name,
        "Deployment" => target.name.strip_prefix(CHILD_PREFIX) == Some(name.as_str()),
        _ => false,
    }
}

fn in_namespace<K: Resource>(
    servers: &Servers,
    object: &K,
    matters: impl Fn(&VirtualMCPServer) -> bool,
) -> Refs {
    let namespace = object.namespace();
    let servers = servers.state_filter(|server| server.metadata.namespace == namespace && matters(server));
    servers
        .iter()
        .map(|server| ObjectRef::from_obj(&**server))
        .collect()
}
