//! The NetworkPolicy of the gateway pods.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec as Spec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use vmcp_crds::v1alpha1::{NetworkPolicySpec, VirtualMCPServer};

use super::deployment::{ADMIN_PORT, MCP_PORT};
use super::{labels, metadata, names};

/// Limits who may connect to the gateway pods: clients to the MCP port, the operator and monitoring to the admin port. Probes of the
/// kubelet are always allowed.
pub(super) fn network_policy(server: &VirtualMCPServer, spec: &NetworkPolicySpec) -> NetworkPolicy {
    let mut admin = vec![operator_pods()];
    admin.extend(spec.monitoring.iter().cloned());
    NetworkPolicy {
        metadata: metadata(server, names::workload(server)),
        spec: Some(Spec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(labels::selector(server)),
                match_expressions: None,
            }),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                rule(MCP_PORT, spec.clients.clone()),
                rule(ADMIN_PORT, admin),
            ]),
            egress: None,
        }),
    }
}

/// Allows `peers` to connect to `port`; everyone if there are none.
pub(super) fn rule(port: u16, peers: Vec<NetworkPolicyPeer>) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        from: (!peers.is_empty()).then_some(peers),
        ports: Some(vec![NetworkPolicyPort {
            port: Some(IntOrString::Int(port.into())),
            protocol: Some("TCP".to_owned()),
            end_port: None,
        }]),
    }
}

/// The pods of the operator, in any namespace.
pub(super) fn operator_pods() -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        pod_selector: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(
                labels::NAME.to_owned(),
                labels::OPERATOR.to_owned(),
            )])),
            match_expressions: None,
        }),
        ip_block: None,
    }
}
