//! The NetworkPolicy of a server.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use vmcp_crds::v1alpha1::{BRIDGE_ADMIN_PORT, MCPServer, ServerTransport};

use crate::desired::network_policy::{operator_pods, rule};
use crate::desired::{labels, metadata, names};

/// Limits who may connect to the pods: gateways of this namespace and the clients of the spec to the server, the operator and monitoring to the
/// bridge. Probes of the kubelet are always allowed.
pub(super) fn network_policy(server: &MCPServer) -> NetworkPolicy {
    let spec = &server.spec.network_policy;
    let mut clients = vec![gateways()];
    clients.extend(spec.clients.iter().cloned());
    let mut ingress = vec![rule(server.spec.port(), clients)];
    if server.spec.transport() == ServerTransport::Stdio {
        let mut admin = vec![operator_pods()];
        admin.extend(spec.monitoring.iter().cloned());
        ingress.push(rule(BRIDGE_ADMIN_PORT, admin));
    }
    let egress = spec.egress.as_ref().map(|rules| {
        let dns = (!rules.is_empty()).then(dns);
        dns.into_iter().chain(rules.iter().cloned()).collect()
    });
    let mut types = vec!["Ingress".to_owned()];
    types.extend(egress.is_some().then(|| "Egress".to_owned()));
    NetworkPolicy {
        metadata: metadata(server, names::workload(server)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(labels::selector(server)),
                match_expressions: None,
            }),
            policy_types: Some(types),
            ingress: Some(ingress),
            egress,
        }),
    }
}

/// The gateway pods of the namespace.
fn gateways() -> NetworkPolicyPeer {
    let gateway = BTreeMap::from([(labels::NAME.to_owned(), labels::GATEWAY.to_owned())]);
    NetworkPolicyPeer {
        pod_selector: Some(LabelSelector {
            match_labels: Some(gateway),
            match_expressions: None,
        }),
        ..NetworkPolicyPeer::default()
    }
}

/// Requests for DNS names, to any server.
fn dns() -> NetworkPolicyEgressRule {
    let port = |protocol: &str| NetworkPolicyPort {
        port: Some(IntOrString::Int(53)),
        protocol: Some(protocol.to_owned()),
        end_port: None,
    };
    NetworkPolicyEgressRule {
        ports: Some(vec![port("UDP"), port("TCP")]),
        to: None,
    }
}
