//! What the operator needs each right of the chart for.

use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Resource, ResourceExt as _};
use serde_json::{Value as Json, json};
use vmcp_cluster::ApiServer;
use vmcp_external::requires;
use vmcp_operator::desired::labels;
use vmcp_operator::optional_kinds::{HTTPRoute, ServiceMonitor};

use crate::endpoint::{definition, reachable};
use crate::fake_gateway::FakeGateway;
use crate::harness::{Harness, RULES, eventually};
use crate::hot_config::rendered_hash;
use crate::requests::accesses;

/// Resources, verbs, and what the operator needs these rights for.
const PURPOSES: &[(&str, &str, &str)] = &[
    ("vmcp.dev/virtualmcpservers", "list watch", "what is to run"),
    ("vmcp.dev/virtualmcpservers/status", "patch", "its conditions"),
    (
        "vmcp.dev/mcpgroups",
        "list watch",
        "the groups that virtual servers name",
    ),
    ("vmcp.dev/mcpgroups/status", "patch", "the members of a group"),
    ("vmcp.dev/mcpserverentries", "list watch", "the backends"),
    ("vmcp.dev/mcpservers", "list watch", "the servers to run"),
    (
        "vmcp.dev/mcpservers/status",
        "patch",
        "their conditions and addresses",
    ),
    (
        "configmaps",
        "list watch",
        "repair of the configuration; which ConfigMaps exist",
    ),
    ("configmaps", "create patch", "the configuration of the pods"),
    (
        "configmaps",
        "delete",
        "start-up configuration that no revision uses",
    ),
    (
        "configmaps",
        "get",
        "certificate authorities that a spec names; objects of others",
    ),
    ("serviceaccounts", "list watch", "repair"),
    ("serviceaccounts", "create patch", "the identity of the pods"),
    (
        "serviceaccounts",
        "get",
        "an object of that name may belong to others",
    ),
    ("services", "list watch", "repair"),
    ("services", "create patch", "the endpoint"),
    (
        "services",
        "delete",
        "the Service of a ServiceMonitor that is no longer wanted",
    ),
    ("services", "get", "an object of that name may belong to others"),
    (
        "secrets",
        "list watch",
        "which Secrets exist and when one changes, without data",
    ),
    (
        "secrets",
        "get",
        "the session keys, and the Secrets that specs name",
    ),
    ("secrets", "create", "the session keys"),
    ("secrets", "update", "their rotation"),
    (
        "pods",
        "list watch",
        "where to ask for the status, and why a pod does not start",
    ),
    (
        "pods",
        "patch",
        "makes the kubelet mount changed configuration at once",
    ),
    (
        "apps/deployments",
        "list watch",
        "repair and progress of a roll-out",
    ),
    ("apps/deployments", "create patch", "the pods"),
    (
        "apps/deployments",
        "get",
        "an object of that name may belong to others",
    ),
    (
        "apps/replicasets",
        "list watch",
        "which pods belong to the Deployment",
    ),
    ("policy/poddisruptionbudgets", "list watch", "repair"),
    (
        "policy/poddisruptionbudgets",
        "create patch",
        "drains of nodes leave a pod",
    ),
    ("policy/poddisruptionbudgets", "delete", "one replica needs none"),
    (
        "policy/poddisruptionbudgets",
        "get",
        "an object of that name may belong to others",
    ),
    ("networking.k8s.io/networkpolicies", "list watch", "repair"),
    (
        "networking.k8s.io/networkpolicies",
        "create patch",
        "spec.networkPolicy",
    ),
    (
        "networking.k8s.io/networkpolicies",
        "delete",
        "without spec.networkPolicy",
    ),
    (
        "networking.k8s.io/networkpolicies",
        "get",
        "an object of that name may belong to others",
    ),
    (
        "autoscaling/horizontalpodautoscalers",
        "list watch",
        "repair; autoscalers of others",
    ),
    (
        "autoscaling/horizontalpodautoscalers",
        "create patch",
        "spec.autoscaling",
    ),
    (
        "autoscaling/horizontalpodautoscalers",
        "delete",
        "without spec.autoscaling",
    ),
    (
        "autoscaling/horizontalpodautoscalers",
        "get",
        "an object of that name may belong to others",
    ),
    (
        "gateway.networking.k8s.io/httproutes",
        "get",
        "repair, and what the Gateway says",
    ),
    (
        "gateway.networking.k8s.io/httproutes",
        "create patch",
        "spec.httpRoute",
    ),
    (
        "gateway.networking.k8s.io/httproutes",
        "delete",
        "without spec.httpRoute",
    ),
    ("monitoring.coreos.com/servicemonitors", "get", "repair"),
    (
        "monitoring.coreos.com/servicemonitors",
        "create patch",
        "spec.serviceMonitor",
    ),
    (
        "monitoring.coreos.com/servicemonitors",
        "delete",
        "without spec.serviceMonitor",
    ),
    ("namespaces", "get", "whether the namespace assigns user ids"),
    (
        "events.k8s.io/events",
        "create",
        "what happened to a virtual server",
    ),
    ("events.k8s.io/events", "patch", "that it happened again"),
];

/// The rights of a resource: for each verb, whether it was used.
type Rights = BTreeMap<(String, String), bool>;

fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{group}/{resource}")
    }
}

/// The rights in the chart's rules, all unused.
fn granted() -> Rights {
    let rules: Json = serde_yaml::from_str(RULES).unwrap();
    let words =
        |rule: &Json, field: &str| -> Vec<String> { serde_json::from_value(rule[field].clone()).unwrap() };
    let mut rights = Rights::new();
    for rule in rules.as_array().unwrap() {
        let group = &words(rule, "apiGroups")[0];
        for resource in words(rule, "resources") {
            for verb in words(rule, "verbs") {
                rights.insert((qualified(group, &resource), verb), false);
            }
        }
    }
    rights
}

/// Whether the object exists.
async fn wait_until<K>(harness: &Harness, exists: bool, name: &str)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let objects = harness.api::<K>();
    eventually(&format!("{} {name} exists: {exists}", K::kind(&())), async || {
        (objects.get_opt(name).await.unwrap().is_some() == exists).then_some(())
    })
    .await;
}

/// Lets the operator do everything that it can do.
async fn use_all(harness: &Harness) {
    harness
        .apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": {"ca.pem": "-----BEGIN CERTIFICATE-----"}}))
        .await;
    harness.apply_group(&["time"]).await;
    let bundle = json!({"configMapKeyRef": {"name": "ca", "key": "ca.pem"}});
    harness
        .apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": "weather"},
            "spec": {"groupRef": {"name": "group"}, "url": "https://weather:8000/mcp", "tls": {"caBundleRef": bundle}},
        }))
        .await;
    harness
        .apply_mcp_server("files", json!({"npm": {"package": "files"}}))
        .await;
    harness
        .wait_for_server_condition("files", "Ready", "False", "DeploymentProgressing")
        .await;
    let mut spec = reachable();
    spec["replicas"] = json!(2);
    spec["networkPolicy"] = json!({});
    harness.apply_server(spec.clone()).await;
    wait_until::<PodDisruptionBudget>(harness, true, "vmcp-x").await;
    wait_until::<NetworkPolicy>(harness, true, "vmcp-x").await;
    wait_until::<HTTPRoute>(harness, true, "vmcp-x").await;
    wait_until::<ServiceMonitor>(harness, true, "vmcp-x").await;
    wait_until::<Service>(harness, true, "metrics-x").await;

    // A pod with an older configuration is nudged.
    let gateway = FakeGateway::start(&harness.status_token().await, "older").await;
    harness.roll_out(&[&gateway]).await;
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;

    // Everything that can go goes, and another start-up configuration takes the place of the first.
    harness
        .apply_server(
            json!({"replicas": 1, "sessionStorage": {"provider": "redis", "address": "redis:6379"}}),
        )
        .await;
    wait_until::<PodDisruptionBudget>(harness, false, "vmcp-x").await;
    wait_until::<NetworkPolicy>(harness, false, "vmcp-x").await;
    wait_until::<HTTPRoute>(harness, false, "vmcp-x").await;
    wait_until::<ServiceMonitor>(harness, false, "vmcp-x").await;
    wait_until::<Service>(harness, false, "metrics-x").await;
    gateway.report("hotConfigHash", json!(rendered_hash(harness).await));
    // The same happens twice: the second Event counts up the first.
    for _ in 0..2 {
        harness.roll_out(&[&gateway]).await;
        harness.wait_for_status("Ready", "True").await;
        harness.observe_deployment(0).await;
        harness.wait_for_status("Ready", "False").await;
    }

    harness.apply_server(json!({"autoscaling": {"minReplicas": 1, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50}})).await;
    wait_until::<HorizontalPodAutoscaler>(harness, true, "vmcp-x").await;
    harness.apply_server(json!({"replicas": 1})).await;
    wait_until::<HorizontalPodAutoscaler>(harness, false, "vmcp-x").await;

    let before: Secret = harness.wait_for_object("vmcp-x-session-keys").await;
    harness
        .apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer",
            "metadata": {"name": "x", "annotations": {labels::ROTATE_SESSION_KEYS: "now"}}, "spec": {"groupRef": {"name": "group"}},
        }))
        .await;
    let rotated = |secret: &Secret| (secret.resource_version() != before.resource_version()).then_some(());
    harness
        .wait_for("the keys are rotated", "vmcp-x-session-keys", rotated)
        .await;
}

// The operator uses each right of the chart, and asks for no other: `PURPOSES` says what for. A right that is in the chart but not in the table, or
// that is not used, fails this test.
#[requires(api_server)]
#[tokio::test]
async fn each_right_of_the_chart_is_used() {
    let mut named = Rights::new();
    for (resource, verbs, _) in PURPOSES {
        for verb in verbs.split(' ') {
            named.insert(((*resource).to_owned(), verb.to_owned()), false);
        }
    }
    let mut rights = granted();
    assert_eq!(named, rights, "the table and the rules of the chart");

    let server = tokio::task::spawn_blocking(|| ApiServer::start().unwrap())
        .await
        .unwrap();
    let definitions =
        tokio::task::spawn_blocking(|| [definition("httproutes.yaml"), definition("servicemonitors.yaml")]);
    let mut harness = Harness::on(&server, "rights").await;
    for definition in definitions.await.unwrap() {
        harness.apply_cluster(&definition).await;
    }
    for kind in ["httproutes", "servicemonitors"] {
        eventually(&format!("{kind} are served"), async || {
            server.kubectl(["get", kind, "-A"]).ok().map(drop)
        })
        .await;
    }
    harness.start_operator().await;
    use_all(&harness).await;
    harness.stop_operator().await;

    for access in accesses(&server, &harness.namespace) {
        assert_ne!(access.code, 403, "not granted: {access:?}");
        let resource = qualified(&access.group, &access.resource);
        // An apply that created its object needs both.
        let created = (access.code == 201).then_some("create");
        for verb in created.into_iter().chain([access.verb.as_str()]) {
            let right = rights.get_mut(&(resource.clone(), verb.to_owned()));
            *right.unwrap_or_else(|| panic!("not in the rules: {access:?}")) = true;
        }
    }
    let unused: Vec<_> = rights.iter().filter(|(_, is_used)| !**is_used).collect();
    assert!(unused.is_empty(), "{unused:?}");
}
