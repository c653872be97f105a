//! The names of the objects that a virtual server owns. All begin with `vmcp-<name>`; what follows makes them differ, also
//! from those of a virtual server whose name begins like this one's.

use kube::ResourceExt as _;
use vmcp_crds::v1alpha1::{CHILD_PREFIX, VirtualMCPServer};

use super::MCP_PORT;

/// The Deployment, the Service, the ServiceAccount and the PodDisruptionBudget.
#[must_use]
pub fn workload(server: &VirtualMCPServer) -> String {
    format!("{CHILD_PREFIX}{}", server.name_any())
}

/// The ConfigMap of a start-up configuration with this hash.
#[must_use]
pub fn startup_config(server: &VirtualMCPServer, hash: &str) -> String {
    format!("{}-{}", workload(server), hash.get(..10).unwrap_or(hash))
}

/// The ConfigMap of the hot configuration.
#[must_use]
pub fn hot_config(server: &VirtualMCPServer) -> String {
    format!("{}-backends", workload(server))
}

/// The Secret with the session keys.
#[must_use]
pub fn session_keys(server: &VirtualMCPServer) -> String {
    format!("{}-session-keys", workload(server))
}

/// Where clients inside the cluster connect.
#[must_use]
pub fn url(server: &VirtualMCPServer) -> String {
    let namespace = server.namespace().unwrap_or_default();
    format!("http://{}.{namespace}.svc:{MCP_PORT}/mcp", workload(server))
}
