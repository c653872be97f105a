//! What the operator says about a virtual server.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many backends the status lists at most; the counts cover all of them.
pub const MAX_BACKENDS: usize = 100;
/// How many conflicts, and how many faults, the status lists at most.
pub const MAX_CONFLICTS: usize = 50;

/// What the operator says about a virtual server. Only the operator writes it, and only when something changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMCPServerStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The state in Kubernetes' usual form. `kubectl wait --for=condition=Ready vmcp/NAME` waits for the first that counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Where clients inside the cluster connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// How many gateway pods there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// The label selector of the gateway pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// How many backends answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_count: Option<i32>,
    /// How many tools clients are offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_count: Option<i32>,
    /// The backends, sorted by name; at most 100 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub backends: Vec<ObservedBackend>,
    /// Names that several backends claim, with who has them; at most 50 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub conflicts: Vec<String>,
    /// What backends offer, or say that they do, and clients do not see for other reasons; at most 50 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub faults: Vec<String>,
}

/// One backend, as the gateway pods see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObservedBackend {
    /// The name of the backend.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// What the gateway pods know of it.
    pub state: ObservedBackendState,
    /// How many tools it offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<i32>,
    /// Why it cannot be used, as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What the gateway pods know of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ObservedBackendState {
    /// No pod has heard from it yet.
    Unknown,
    /// It answers.
    Ready,
    /// It does not answer at least one of the pods; what it offered before stays listed.
    Failing,
}
