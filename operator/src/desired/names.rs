//! Names of the objects that a virtual server owns. All but that of the Service for metrics begin with
//! `vmcp-<name>`.

use kube::ResourceExt as _;
use vmcp_crds::v1alpha1::{HttpRouteSpec, MCP_PATH, VirtualMCPServer};

use super::MCP_PORT;
use crate::workload::Workload;

/// Name of the Deployment and the Service, and of the other objects of which there is one.
#[must_use]
pub fn workload<W: Workload>(server: &W) -> String {
    server.workload()
}

/// Name of the ConfigMap of a start-up configuration with this hash.
#[must_use]
pub fn startup_config(server: &VirtualMCPServer, hash: &str) -> String {
    format!("{}-{}", workload(server), hash.get(..10).unwrap_or(hash))
}

/// Name of the ConfigMap of a part of the hot configuration.
#[must_use]
pub fn hot_config(server: &VirtualMCPServer, part: usize) -> String {
    match part {
        0 => format!("{}-backends", workload(server)),
        part => format!("{}-backends-{part}", workload(server)),
    }
}

/// Name of the Secret with the session keys.
#[must_use]
pub fn session_keys(server: &VirtualMCPServer) -> String {
    format!("{}-session-keys", workload(server))
}

/// Name of the Service for metrics. With the prefix of the others, it could be the Service of another virtual server, and be too long.
#[must_use]
pub fn metrics_service(server: &VirtualMCPServer) -> String {
    format!("metrics-{}", server.name_any())
}

/// URL of the MCP endpoint: that of the route, or for clients inside the cluster.
#[must_use]
pub fn url(server: &VirtualMCPServer) -> String {
    let route = server.spec.http_route.as_ref().and_then(HttpRouteSpec::url);
    route.unwrap_or_else(|| {
        let scheme = if server.spec.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let namespace = server.namespace().unwrap_or_default();
        format!(
            "{scheme}://{}.{namespace}.svc:{MCP_PORT}{MCP_PATH}",
            workload(server)
        )
    })
}
