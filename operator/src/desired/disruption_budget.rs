//! The PodDisruptionBudget of the gateway pods.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use vmcp_crds::v1alpha1::VirtualMCPServer;

use super::{labels, metadata, names};

/// Allows one voluntary disruption at a time, or as many as the spec says. A single pod gets no budget, because that would block node drains forever.
pub(super) fn disruption_budget(server: &VirtualMCPServer) -> PodDisruptionBudget {
    let settings = &server.spec.pod_disruption_budget;
    let max_unavailable = match (&settings.max_unavailable, &settings.min_available) {
        (Some(maximum), _) => Some(maximum.clone()),
        (None, Some(_)) => None,
        (None, None) => Some(IntOrString::Int(1)),
    };
    PodDisruptionBudget {
        metadata: metadata(server, names::workload(server)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable,
            min_available: settings.min_available.clone(),
            // A pod that does not become ready must not block a node drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            selector: Some(LabelSelector {
                match_labels: Some(labels::selector(server)),
                match_expressions: None,
            }),
        }),
        status: None,
    }
}
