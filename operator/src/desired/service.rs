//! The Service that clients connect to.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use vmcp_crds::v1alpha1::{
    ServiceType, SessionAffinity, TrafficDistribution, TrafficPolicy, VirtualMCPServer,
};

use super::deployment::{MCP_PORT, MCP_PORT_NAME};
use super::{labels, metadata, names};

/// The policy for a Service with an address of each family that the cluster has.
pub(super) const DUAL_STACK: &str = "PreferDualStack";
/// Name and protocol of the port with TLS.
const HTTPS: &str = "https";

/// The Service of the MCP port. It does not expose the admin port.
pub(super) fn service(server: &VirtualMCPServer) -> Service {
    let affinity = match server.spec.session_affinity {
        SessionAffinity::None => "None",
        SessionAffinity::ClientIP => "ClientIP",
    };
    let settings = &server.spec.service;
    let mut metadata = metadata(server, names::workload(server));
    if !settings.annotations.is_empty() {
        metadata.annotations = Some(settings.annotations.clone());
    }
    let labels = metadata.labels.get_or_insert_default();
    for (key, value) in &settings.labels {
        // The operator finds its objects by its own labels.
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let kind = match settings.kind {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let policy = settings.internal_traffic_policy.map(|policy| match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    });
    let distribution = settings
        .traffic_distribution
        .map(|distribution| match distribution {
            TrafficDistribution::PreferClose => "PreferClose",
            TrafficDistribution::PreferSameZone => "PreferSameZone",
            TrafficDistribution::PreferSameNode => "PreferSameNode",
        });
    let has_tls = server.spec.tls.is_some();
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            ip_family_policy: Some(DUAL_STACK.to_owned()),
            internal_traffic_policy: policy.map(str::to_owned),
            traffic_distribution: distribution.map(str::to_owned),
            load_balancer_class: settings.load_balancer_class.clone(),
            selector: Some(labels::selector(server)),
            session_affinity: Some(affinity.to_owned()),
            ports: Some(vec![ServicePort {
                name: Some(if has_tls { HTTPS } else { MCP_PORT_NAME }.to_owned()),
                app_protocol: has_tls.then(|| HTTPS.to_owned()),
                port: i32::from(MCP_PORT),
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String(MCP_PORT_NAME.to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
