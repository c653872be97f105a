//! Kinds of other projects that a cluster may not have: `HTTPRoute` of the Gateway API, and `ServiceMonitor` of the Prometheus operator. Only
//! the fields that the operator uses.
//!
//! They are not watched: a watch of a kind that does not exist fails all the time. A reconcile reads the object instead, at least every 30
//! seconds, which also notices that the kind has been installed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use vmcp_crds::config::Duration;
use vmcp_crds::v1alpha1::ParentRef;

/// A route of a Gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "HTTPRoute",
    plural = "httproutes",
    namespaced,
    schema = "disabled",
    status = "HTTPRouteStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct HTTPRouteSpec {
    /// The Gateways, or their listeners.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// The host names that the route matches.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// The rules, in the form of the Gateway API.
    #[serde(default)]
    pub rules: Vec<Json>,
}

/// What the controllers of the Gateways say about a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HTTPRouteStatus {
    /// One entry for each parent that a controller is responsible for.
    pub parents: Vec<RouteParentStatus>,
}

/// What a controller says about a route at one parent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteParentStatus {
    /// The reference, as the route has it.
    pub parent_ref: Json,
    /// Conditions such as `Accepted` and `ResolvedRefs`.
    pub conditions: Vec<RouteCondition>,
}

/// A condition of a route at one parent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteCondition {
    /// The type, for example `Accepted`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The reason, in CamelCase.
    pub reason: String,
    /// The message for users.
    pub message: String,
    /// The generation of the route that the controller has looked at, if it says so.
    pub observed_generation: Option<i64>,
}

impl RouteCondition {
    /// Whether the condition is about `route` as it is now, and not about an earlier generation.
    #[must_use]
    pub fn is_current(&self, route: &HTTPRoute) -> bool {
        let generation = route.metadata.generation;
        self.observed_generation
            .is_none_or(|observed| generation.is_none_or(|now| observed >= now))
    }
}

/// Tells Prometheus which Services to scrape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource)]
#[kube(
    group = "monitoring.coreos.com",
    version = "v1",
    kind = "ServiceMonitor",
    plural = "servicemonitors",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMonitorSpec {
    /// The Services, by their labels.
    #[serde(default)]
    pub selector: LabelSelector,
    /// The label of the Services whose value is the name of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_label: Option<String>,
    /// The ports and paths to scrape.
    #[serde(default)]
    pub endpoints: Vec<MetricsEndpoint>,
}

/// A port and a path to scrape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricsEndpoint {
    /// The name of the Service's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Time between two scrapes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
}
