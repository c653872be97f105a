//! Mappers from a changed object to the virtual servers that it affects, for the watches.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt as _};
use vmcp_crds::v1alpha1::{KeyedObject, MCPGroup, MCPServer, MCPServerEntry, SecretFile, VirtualMCPServer};

use crate::desired::{labels, names};
use crate::workload::Workload;

/// The reflector stores of the objects with references.
#[derive(Clone, Debug)]
pub struct Referrers {
    /// All virtual servers.
    pub servers: Store<VirtualMCPServer>,
    /// All members of groups that exist already.
    pub entries: Store<MCPServerEntry>,
    /// All members of groups that the operator runs.
    pub mcp_servers: Store<MCPServer>,
}

type ServerRefs = Vec<ObjectRef<VirtualMCPServer>>;

/// Maps a virtual server to itself.
#[must_use]
pub fn to_self(_: &Referrers, server: &VirtualMCPServer) -> ServerRefs {
    vec![ObjectRef::from_obj(server)]
}

/// The virtual server named in the object's instance label. Owner references would not do: pods and ReplicaSets have other owners.
#[must_use]
pub fn by_label<K: Resource>(_: &Referrers, object: &K) -> ServerRefs {
    let namespace = object.namespace().unwrap_or_default();
    let is_of_server = object.labels().get(labels::NAME).map(String::as_str) == Some(labels::MCP_SERVER);
    let name = object.labels().get(labels::INSTANCE).filter(|_| !is_of_server);
    name.map(|name| ObjectRef::new(name).within(&namespace))
        .into_iter()
        .collect()
}

/// The servers that reference the group.
#[must_use]
pub fn by_group(referrers: &Referrers, group: &MCPGroup) -> ServerRefs {
    in_namespace(referrers, group, |server| {
        server.spec.group_ref.name == group.name_any()
    })
}

/// The servers that a member of a group may affect: all in its namespace. The event shows only its new labels and `groupRef`, and it may
/// have left the group of any of them.
#[must_use]
pub fn by_member<K: Resource>(referrers: &Referrers, member: &K) -> ServerRefs {
    in_namespace(referrers, member, |_| true)
}

/// The servers that use the Secret, themselves or through a member of their group.
#[must_use]
pub fn by_secret(referrers: &Referrers, secret: &PartialObjectMeta<Secret>) -> ServerRefs {
    let name = secret.name_any();
    let users = by_object(referrers, secret, &KeyedObject::Secret(name.clone()));
    let others = in_namespace(referrers, secret, |server| {
        let password = server.spec.redis_password_ref();
        password.is_some_and(|reference| reference.name == name) || names::session_keys(server) == name
    });
    users.into_iter().chain(others).collect()
}

/// The servers that use the ConfigMap, themselves or through a member of their group.
#[must_use]
pub fn by_config_map(referrers: &Referrers, config_map: &PartialObjectMeta<ConfigMap>) -> ServerRefs {
    let object = KeyedObject::ConfigMap(config_map.name_any());
    by_object(referrers, config_map, &object)
}

/// The servers with a file that contains a value of `object`.
fn by_object<K: Resource>(referrers: &Referrers, metadata: &K, object: &KeyedObject) -> ServerRefs {
    let namespace = metadata.namespace();
    let uses = |files: &[SecretFile]| files.iter().any(|file| file.object == *object);
    let entries = referrers
        .entries
        .state_filter(|entry| entry.metadata.namespace == namespace && uses(&entry.secret_files()));
    let servers = referrers
        .mcp_servers
        .state_filter(|server| server.metadata.namespace == namespace && uses(&server.secret_files()));
    let is_used_by_member = !entries.is_empty() || !servers.is_empty();
    in_namespace(referrers, metadata, |server| {
        let spec = &server.spec;
        is_used_by_member || uses(&spec.secret_files()) || uses(&spec.certificate_files())
    })
}

/// The servers that the autoscaler scales.
#[must_use]
pub fn by_autoscaler(referrers: &Referrers, autoscaler: &HorizontalPodAutoscaler) -> ServerRefs {
    in_namespace(referrers, autoscaler, |server| scales(autoscaler, server))
}

/// Whether an autoscaler in the namespace of `server` scales it, either directly or through its Deployment.
#[must_use]
pub fn scales<W: Workload>(autoscaler: &HorizontalPodAutoscaler, server: &W) -> bool {
    let target = &autoscaler.spec.scale_target_ref;
    let is_server = target.kind == W::kind(&()) && target.name == server.name_any();
    is_server || scales_deployment(autoscaler, server)
}

/// Whether an autoscaler in the namespace of `server` scales its Deployment.
#[must_use]
pub fn scales_deployment<W: Workload>(autoscaler: &HorizontalPodAutoscaler, server: &W) -> bool {
    let target = &autoscaler.spec.scale_target_ref;
    target.kind == "Deployment" && target.name == server.workload()
}

fn in_namespace<K: Resource>(
    referrers: &Referrers,
    object: &K,
    is_affected: impl Fn(&VirtualMCPServer) -> bool,
) -> ServerRefs {
    let namespace = object.namespace();
    let servers = referrers
        .servers
        .state_filter(|server| server.metadata.namespace == namespace && is_affected(server));
    servers
        .iter()
        .map(|server| ObjectRef::from_obj(&**server))
        .collect()
}
