//! `spec.networkPolicy` of an MCPServer.

use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyPeer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may connect to the pods of a server, and where these may connect to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerNetworkPolicySpec {
    /// `false` for no NetworkPolicy: everyone may connect to the server. Default: `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Clients of the server besides the gateways of this namespace, as in a NetworkPolicy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub clients: Vec<NetworkPolicyPeer>,
    /// Pods besides the operator that may connect to the bridge's admin port, for example Prometheus for `/metrics`. Only with
    /// `transport: stdio`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub monitoring: Vec<NetworkPolicyPeer>,
    /// Where the server may connect to, as in a NetworkPolicy. With rules it may also ask for DNS names (port 53). `[]`: nowhere. Default:
    /// everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub egress: Option<Vec<NetworkPolicyEgressRule>>,
}
