//! The ServiceMonitor for the metrics of the gateway pods, and the Service that it needs.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use vmcp_crds::v1alpha1::{ServiceMonitorSettings, VirtualMCPServer};

use super::deployment::{ADMIN_PORT, ADMIN_PORT_NAME};
use super::service::DUAL_STACK;
use super::{labels, metadata, names};
use crate::optional_kinds::{MetricsEndpoint, ServiceMonitor, ServiceMonitorSpec};

/// The value of [`labels::COMPONENT`] of the Service.
const METRICS: &str = "metrics";

/// Scrapes the admin port of each pod through [`metrics_service`].
pub(super) fn service_monitor(server: &VirtualMCPServer, spec: &ServiceMonitorSettings) -> ServiceMonitor {
    let mut metadata = metadata(server, names::workload(server));
    let labels = metadata.labels.get_or_insert_default();
    for (key, value) in &spec.labels {
        // The operator finds its objects by its own labels.
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let mut selector = labels::selector(server);
    selector.insert(labels::COMPONENT.to_owned(), METRICS.to_owned());
    ServiceMonitor {
        metadata,
        spec: ServiceMonitorSpec {
            selector: LabelSelector {
                match_labels: Some(selector),
                match_expressions: None,
            },
            job_label: Some(labels::INSTANCE.to_owned()),
            endpoints: vec![MetricsEndpoint {
                port: Some(ADMIN_PORT_NAME.to_owned()),
                path: Some("/metrics".to_owned()),
                interval: spec.interval,
            }],
        },
    }
}

/// The headless Service of the admin port. It is separate from the Service for clients, because the admin port is not for them, and it also
/// has the pods that are not ready.
pub(super) fn metrics_service(server: &VirtualMCPServer) -> Service {
    let mut metadata = metadata(server, names::metrics_service(server));
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(labels::COMPONENT.to_owned(), METRICS.to_owned());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            ip_family_policy: Some(DUAL_STACK.to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(labels::selector(server)),
            ports: Some(vec![ServicePort {
                name: Some(ADMIN_PORT_NAME.to_owned()),
                port: i32::from(ADMIN_PORT),
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String(ADMIN_PORT_NAME.to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
