//! The PodMonitor for the metrics of the gateway pods.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use vmcp_crds::v1alpha1::{PodMonitorSettings, VirtualMCPServer};

use super::deployment::ADMIN_PORT_NAME;
use super::{labels, metadata, names};
use crate::optional_kinds::{PodMetricsEndpoint, PodMonitor, PodMonitorSpec};

/// Scrapes the admin port of each pod. It is not a ServiceMonitor, because that one needs a port in a Service, and the admin port is not for
/// clients of the Service. It also scrapes pods that are not ready.
pub(super) fn pod_monitor(server: &VirtualMCPServer, spec: &PodMonitorSettings) -> PodMonitor {
    let mut metadata = metadata(server, names::workload(server));
    let labels = metadata.labels.get_or_insert_default();
    for (key, value) in &spec.labels {
        // The operator finds its objects by its own labels.
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    PodMonitor {
        metadata,
        spec: PodMonitorSpec {
            selector: LabelSelector {
                match_labels: Some(labels::selector(server)),
                match_expressions: None,
            },
            job_label: Some(labels::INSTANCE.to_owned()),
            pod_metrics_endpoints: vec![PodMetricsEndpoint {
                port: Some(ADMIN_PORT_NAME.to_owned()),
                path: Some("/metrics".to_owned()),
                interval: spec.interval,
            }],
        },
    }
}
