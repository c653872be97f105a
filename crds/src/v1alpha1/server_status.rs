//! `status` of a virtual server.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::{Breaker, Health, ProtocolEra};

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
    /// State of the backend: `Unknown`, `Ready`, `Failing` or `LeftOut`.
    pub state: ObservedBackendState,
    /// Health of the backend by health checks and the circuit breaker: `Unknown`, `Healthy`, `Degraded` or `Unavailable`. The worst one
    /// while pods disagree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ObservedHealth>,
    /// State of the circuit breaker: `Closed`, or `Open` if it is open in at least one pod. Absent if the gateways are too old to report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<ObservedBreaker>,
    /// Protocol era of the backend. `Modern` while pods disagree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub era: Option<ObservedEra>,
    /// Number of tools that the backend offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<i32>,
    /// Number of prompts that the backend offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<i32>,
    /// Number of resources that the backend offers, without resource templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<i32>,
    /// The last error of the backend, or why the backend cannot be used. Absent without an error.
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
    /// The backend is not in the configuration of the gateways, because its spec, or a value that the spec refers to, cannot be used.
    LeftOut,
}

/// Health of a backend. The order is from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ObservedHealth {
    /// The backend has not answered any pod yet.
    Unknown,
    /// The backend answered the last health check of each pod that knows it.
    Healthy,
    /// The backend has failed recently, or rejects the requests of a gateway, or a circuit breaker is not closed.
    Degraded,
    /// The backend has failed repeatedly.
    Unavailable,
}

impl From<Health> for ObservedHealth {
    fn from(health: Health) -> Self {
        match health {
            Health::Unknown => Self::Unknown,
            Health::Healthy => Self::Healthy,
            Health::Degraded => Self::Degraded,
            Health::Unavailable => Self::Unavailable,
        }
    }
}

/// Protocol era of a backend: `Legacy` if it accepts `initialize`, `Modern` if it supports only revisions without sessions. Absent until the
/// backend has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ObservedEra {
    /// The backend accepts `initialize`: revisions up to 2025-11-25, with sessions.
    Legacy,
    /// The backend refuses `initialize` and names only later revisions, which have no sessions.
    Modern,
}

impl From<ProtocolEra> for ObservedEra {
    fn from(era: ProtocolEra) -> Self {
        match era {
            ProtocolEra::Legacy => Self::Legacy,
            ProtocolEra::Modern => Self::Modern,
        }
    }
}

/// State of a backend's circuit breaker. A gateway that tries one call from time to time reports `halfOpen` on its `/status`; here the
/// breaker is still open, so that the trials of an unavailable backend do not change the object again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ObservedBreaker {
    /// Calls go through to the backend.
    Closed,
    /// Calls fail without being sent, except for trial calls. A trial call that succeeds closes the breaker.
    Open,
}

impl From<Breaker> for ObservedBreaker {
    fn from(breaker: Breaker) -> Self {
        match breaker {
            Breaker::Closed => Self::Closed,
            Breaker::HalfOpen | Breaker::Open => Self::Open,
        }
    }
}
