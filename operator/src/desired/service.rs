//! The Service that clients connect to.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use vmcp_crds::v1alpha1::{SessionAffinity, VirtualMCPServer};

use super::deployment::{MCP_PORT, MCP_PORT_NAME};
use super::{labels, metadata, names};

/// The Service of the MCP port. It does not expose the admin port.
pub(super) fn service(server: &VirtualMCPServer) -> Service {
    let affinity = match server.spec.session_affinity {
        SessionAffinity::None => "None",
        SessionAffinity::ClientIP => "ClientIP",
    };
    Service {
        metadata: metadata(server, names::workload(server)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(labels::selector(server)),
            session_affinity: Some(affinity.to_owned()),
            ports: Some(vec![ServicePort {
                name: Some(MCP_PORT_NAME.to_owned()),
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
