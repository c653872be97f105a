//! The Service of a server.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use vmcp_crds::v1alpha1::MCPServer;

use crate::desired::deployment::MCP_PORT_NAME;
use crate::desired::service::DUAL_STACK;
use crate::desired::{labels, metadata, names};

/// A headless Service: clients find the pods, and can keep each session at its own. With an address of its own, a Service could not become
/// headless when the server gets more pods, because that address never changes.
pub(super) fn service(server: &MCPServer) -> Service {
    let port = i32::from(server.spec.port());
    Service {
        metadata: metadata(server, names::workload(server)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            ip_family_policy: Some(DUAL_STACK.to_owned()),
            selector: Some(labels::selector(server)),
            ports: Some(vec![ServicePort {
                name: Some(MCP_PORT_NAME.to_owned()),
                port,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String(MCP_PORT_NAME.to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
