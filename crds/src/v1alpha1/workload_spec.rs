//! Fields of a virtual server about the Kubernetes objects around its gateway pods.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::child_metadata;
use crate::config::cel;

/// Reference to a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[cfg_attr(test, x_kube(cel))]
pub struct SecretRef {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(cel::is_dns_name("self")).message(cel::OBJECT_NAME_EXPECTED))]
    pub name: String,
}

/// The Service that clients connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.loadBalancerClass) || (has(self.type) && self.type == 'LoadBalancer')")
        .message("has no effect without `type: LoadBalancer`; set it or remove this")
        .field_path(".loadBalancerClass")
)]
#[cfg_attr(test, x_kube(cel))]
pub struct ServiceSettings {
    /// `ClusterIP`: for clients inside the cluster. `NodePort`: also on a port of every node. `LoadBalancer`: also through a load balancer
    /// of the cloud provider.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    /// Annotations of the Service, for example for a load balancer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "child_metadata::annotations")]
    pub annotations: BTreeMap<String, String>,
    /// Labels of the Service. Those that the operator sets itself are not allowed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "child_metadata::labels")]
    pub labels: BTreeMap<String, String>,
    /// `Local` sends clients only to gateway pods on their own node. Default: `Cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<TrafficPolicy>,
    /// Which pods get a client's requests first, for example those in its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<TrafficDistribution>,
    /// The implementation of the load balancer. Only with `type: LoadBalancer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub load_balancer_class: Option<String>,
}

/// Type of the Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// For clients inside the cluster.
    #[default]
    ClusterIP,
    /// Also on a port of every node.
    NodePort,
    /// Also through a load balancer of the cloud provider.
    LoadBalancer,
}

/// `Local` sends clients inside the cluster only to gateway pods on their own node. Default: `Cluster`, to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrafficPolicy {
    /// All endpoints.
    Cluster,
    /// Endpoints on the client's node.
    Local,
}

/// Which pods get a client's requests first. `PreferSameZone` (or `PreferClose`, its older name): those in its zone. `PreferSameNode`: those
/// on its node. Default: no preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrafficDistribution {
    /// The same as `PreferSameZone`, under its older name.
    PreferClose,
    /// Endpoints in the client's zone.
    PreferSameZone,
    /// Endpoints on the client's node.
    PreferSameNode,
}

/// Matches a percentage.
const PERCENTAGE: &str = "^(100|[0-9]{1,2})%$";

/// How many gateway pods may be evicted at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.minAvailable) || !has(self.maxUnavailable)")
        .message("set only one of `maxUnavailable` and `minAvailable`")
)]
#[cfg_attr(test, x_kube(cel))]
pub struct DisruptionBudgetSettings {
    /// `false` for no PodDisruptionBudget. Default: `true`. A single pod never has one, because it would block node drains forever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Maximum number of pods that may be evicted at once, or a percentage such as `25%`. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "pattern" = PERCENTAGE))]
    pub max_unavailable: Option<IntOrString>,
    /// Minimum number of pods that must stay, or a percentage. Instead of `maxUnavailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "pattern" = PERCENTAGE))]
    pub min_available: Option<IntOrString>,
}

/// Scaling of the gateway pods by their CPU usage and by their requests in flight. The larger number of pods counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.minReplicas) || self.minReplicas <= self.maxReplicas")
        .message("must not be greater than `maxReplicas`")
        .field_path(".minReplicas")
)]
#[cfg_attr(test, x_kube(cel))]
pub struct AutoscalingSpec {
    /// Minimum number of pods. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_replicas: Option<i32>,
    /// Maximum number of pods.
    #[schemars(range(min = 1))]
    pub max_replicas: i32,
    /// Average CPU usage of the pods, in percent of their CPU request, that the autoscaler aims at. Default: 80.
    #[serde(
        default,
        rename = "targetCPUUtilizationPercentage",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 10000))]
    pub target_cpu_utilization_percentage: Option<i32>,
    /// Average number of requests in flight for each pod that the autoscaler aims at, besides the CPU usage. It needs a metrics adapter that
    /// serves the gateway's metric `vmcp_requests_in_flight` of pods. Default: not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub target_requests_per_pod: Option<i32>,
}

/// Which pods may connect to the gateway pods. Connections from the gateway pods are not limited, because backends may be anywhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Clients of the MCP endpoint, as in a NetworkPolicy. Default: everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub clients: Vec<NetworkPolicyPeer>,
    /// Pods besides the operator that may connect to the admin port, for example Prometheus for `/metrics`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub monitoring: Vec<NetworkPolicyPeer>,
}
