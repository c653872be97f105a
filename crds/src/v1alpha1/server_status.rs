//! `status` of a virtual server.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maximum number of backends in the status. The counts cover all backends.
pub const MAX_BACKENDS: usize = 100;
/// Maximum number of conflicts, and of faults, in the status.
pub const MAX_CONFLICTS: usize = 50;

/// Observed state of a virtual server. Only the operator writes it, and only when something has changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMCPServerStatus {
    /// The generation of the spec from which this status was derived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions of the virtual server. `kubectl wait --for=condition=Ready vmcp/NAME` waits until it is ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// URL of the MCP endpoint: that of `spec.httpRoute`, or for clients inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Number of gateway pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Label selector of the gateway pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Number of ready backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_count: Option<i32>,
    /// Number of tools that clients see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_count: Option<i32>,
    /// The backends, sorted by name; at most 100 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub backends: Vec<ObservedBackend>,
    /// Names that several backends offer, with the backend that wins; at most 50 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub conflicts: Vec<String>,
    /// Items of backends that clients do not see for other reasons, for example an invalid name; at most 50 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub faults: Vec<String>,
}

/// State of one backend, merged from all ready gateway pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObservedBackend {
    /// The name of the backend.
    pub name: String,
    /// The URL of the backend, without secrets.
    pub url: String,
    /// State of the backend: `Unknown`, `Ready` or `Failing`.
    pub state: ObservedBackendState,
    /// Number of tools that the backend offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<i32>,
    /// Why the backend cannot be used, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// State of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ObservedBackendState {
    /// The backend has not answered any pod yet.
    Unknown,
    /// The backend answers.
    Ready,
    /// The backend fails for at least one pod. Its last known items stay listed.
    Failing,
}
