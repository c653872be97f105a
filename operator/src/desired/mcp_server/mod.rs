//! Desired state: the Kubernetes objects of a server.

mod pod;
mod program;
mod server_network_policy;
mod server_service;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use vmcp_crds::v1alpha1::MCPServer;

use super::deployment::{REVISION_HISTORY_LIMIT, rolling_update};
use super::{labels, metadata, names};

/// Name of the server's container.
pub const SERVER_CONTAINER: &str = "mcp";
/// Name of the init container that installs the bridge.
pub(super) const BRIDGE_CONTAINER: &str = "bridge";
/// Directory of the bridge in the server's container.
pub(super) const BRIDGE_DIR: &str = "/vmcp";
/// Names of the volumes that the operator mounts.
pub(super) const SERVER_VOLUMES: [&str; 2] = ["vmcp", "tmp"];

/// The images that the operator brings into the pods of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerImages {
    /// The gateway's, which contains the bridge.
    pub gateway: String,
    /// The one with `npx`.
    pub npm: String,
    /// The one with `uvx`.
    pub pypi: String,
}

/// Everything that the objects depend on besides the server itself.
#[derive(Clone, Copy, Debug)]
pub struct ServerInputs<'a> {
    /// The images that the operator brings.
    pub images: &'a ServerImages,
    /// Whether the pods name a fixed user id. Otherwise the cluster chooses one.
    pub has_fixed_user: bool,
    /// Whether an autoscaler scales the Deployment instead of `spec.replicas`.
    pub ignores_replicas: bool,
}

/// The objects that a server owns.
#[derive(Clone, Debug)]
pub struct ServerChildren {
    /// The Deployment of the pods.
    pub deployment: Deployment,
    /// The Service by which clients find the pods.
    pub service: Service,
    /// Limits connections to the pods, unless the spec says otherwise.
    pub network_policy: Option<NetworkPolicy>,
}

/// Renders the objects of `server`.
#[must_use]
pub fn children(server: &MCPServer, inputs: &ServerInputs<'_>) -> ServerChildren {
    let has_policy = server.spec.network_policy.enabled != Some(false);
    ServerChildren {
        deployment: deployment(server, inputs),
        service: server_service::service(server),
        network_policy: has_policy.then(|| server_network_policy::network_policy(server)),
    }
}

/// The Deployment. Without `spec.replicas`, or if that is ignored, it does not set the replica count, which then belongs to an autoscaler or a user.
fn deployment(server: &MCPServer, inputs: &ServerInputs<'_>) -> Deployment {
    Deployment {
        metadata: metadata(server, names::workload(server)),
        spec: DeploymentSpec {
            replicas: server.spec.replicas.filter(|_| !inputs.ignores_replicas),
            revision_history_limit: Some(REVISION_HISTORY_LIMIT),
            selector: LabelSelector {
                match_labels: Some(labels::selector(server)),
                match_expressions: None,
            },
            strategy: Some(rolling_update()),
            template: pod::template(server, inputs),
            ..DeploymentSpec::default()
        },
        status: None,
    }
}

#[cfg(test)]
mod tests;
