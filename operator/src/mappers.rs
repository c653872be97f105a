//! Mappers from a changed object to the virtual servers that it affects, for the watches.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt as _};
use vmcp_crds::v1alpha1::{CHILD_PREFIX, MCPGroup, VirtualMCPServer};

use crate::desired::{labels, names};

/// The reflector store of all virtual servers.
pub type ServerStore = Store<VirtualMCPServer>;
type ServerRefs = Vec<ObjectRef<VirtualMCPServer>>;

/// Maps a virtual server to itself.
#[must_use]
pub fn to_self(_: &ServerStore, server: &VirtualMCPServer) -> ServerRefs {
    vec![ObjectRef::from_obj(server)]
}

/// The server named in the object's instance label. Owner references would not do: pods and ReplicaSets have other owners.
#[must_use]
pub fn by_label<K: Resource>(_: &ServerStore, object: &K) -> ServerRefs {
    let namespace = object.namespace().unwrap_or_default();
    let name = object.labels().get(labels::INSTANCE);
    name.map(|name| ObjectRef::new(name).within(&namespace))
        .into_iter()
        .collect()
}

/// The servers that reference the group.
#[must_use]
pub fn by_group(servers: &ServerStore, group: &MCPGroup) -> ServerRefs {
    in_namespace(servers, group, |server| {
        server.spec.group_ref.name == group.name_any()
    })
}

/// The servers that a member of a group may affect: all in its namespace. The event shows only its new labels and `groupRef`, and it may
/// have left the group of any of them.
#[must_use]
pub fn by_member<K: Resource>(servers: &ServerStore, member: &K) -> ServerRefs {
    in_namespace(servers, member, |_| true)
}

/// The servers that use the Secret.
#[must_use]
pub fn by_secret(servers: &ServerStore, secret: &PartialObjectMeta<Secret>) -> ServerRefs {
    let name = secret.name_any();
    in_namespace(servers, secret, |server| {
        server
            .spec
            .redis_password_ref()
            .is_some_and(|reference| reference.name == name)
            || names::session_keys(server) == name
            || server
                .spec
                .tls
                .as_ref()
                .is_some_and(|tls| tls.certificate_ref.name == name)
    })
}

/// The servers that the autoscaler scales.
#[must_use]
pub fn by_autoscaler(servers: &ServerStore, autoscaler: &HorizontalPodAutoscaler) -> ServerRefs {
    in_namespace(servers, autoscaler, |server| scales(autoscaler, server))
}

/// Whether an autoscaler in the namespace of `server` scales it, either directly or through its Deployment.
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
    servers: &ServerStore,
    object: &K,
    is_affected: impl Fn(&VirtualMCPServer) -> bool,
) -> ServerRefs {
    let namespace = object.namespace();
    let servers =
        servers.state_filter(|server| server.metadata.namespace == namespace && is_affected(server));
    servers
        .iter()
        .map(|server| ObjectRef::from_obj(&**server))
        .collect()
}
