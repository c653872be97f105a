//! An operator that lacks a right.

use std::process::Command;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use serde_json::{Value as Json, json};
use vmcp_crds::condition::find;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::process::Process;
use vmcp_external::requires;

use crate::fake_gateway::FakeGateway;
use crate::harness::{Harness, OPERATOR, eventually, server};
use crate::hot_config::rendered_hash;
use crate::process::{admin_address, request};

/// Gives the operator the rights of the chart, without those to list and watch `resource`.
async fn grant_without(harness: &Harness, resource: &str) {
    let rules = include_str!("../../../charts/vmcp-operator/files/rules.yaml");
    let mut rules: Json = serde_yaml::from_str(rules).unwrap();
    for rule in rules.as_array_mut().unwrap() {
        if rule["resources"].as_array().unwrap().contains(&json!(resource)) {
            let verbs = rule["verbs"].as_array_mut().unwrap();
            verbs.retain(|verb| !["list", "watch"].contains(&verb.as_str().unwrap()));
        }
    }
    bind(harness, "Role", "without-one-right", Some(rules)).await;
}

/// Binds the operator to a role, and to no other.
pub(crate) async fn bind(harness: &Harness, kind: &str, name: &str, rules: Option<Json>) {
    let group = "rbac.authorization.k8s.io";
    if let Some(rules) = rules {
        harness
            .apply(&json!({
                "apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": name}, "rules": rules,
            }))
            .await;
    }
    let bindings = harness.api::<RoleBinding>();
    let delete = DeleteParams::default();
    bindings.delete("operator", &delete).await.unwrap();
    harness
        .apply(&json!({
            "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": "operator"},
            "roleRef": {"apiGroup": group, "kind": kind, "name": name},
            "subjects": [{"apiGroup": group, "kind": "User", "name": OPERATOR}],
        }))
        .await;
}

// Without the right to watch NetworkPolicies, everything else is reconciled, and a NetworkPolicy is written once.
#[requires(api_server)]
#[tokio::test]
async fn refused_watch_of_one_kind_leaves_the_rest() {
    let mut harness = Harness::without_operator("no-policies").await;
    grant_without(&harness, "networkpolicies").await;
    harness.start_operator().await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({"networkPolicy": {}})).await;
    let gateway = FakeGateway::start(&harness.status_token().await, &rendered_hash(&harness).await).await;
    gateway.report(
        "backends",
        json!([{"name": "time", "state": "ready", "tools": 1}]),
    );
    harness.roll_out(&[&gateway]).await;
    harness.wait_for_condition("Ready", "True", "Serving").await;
    harness.wait_for_object::<NetworkPolicy>("vmcp-x").await;
    let refused = harness.refused_watches();
    assert!(
        refused.contains("needs the rights list and watch for networkpolicies.networking.k8s.io")
            && refused.contains(&harness.namespace)
            && refused.lines().count() == 1,
        "{refused}"
    );
    assert!(harness.watch_failure_count() > 0);

    harness.settle().await;
    let writes = harness.write_count();
    for _ in 0..3 {
        harness.reconcile().await;
    }
    assert_eq!(harness.write_count(), writes, "requests that write");
}

// Without the right to watch Secrets, nothing is rendered from the Secrets that are not known: the pods stay as they are. The operator
// continues when it gets the right.
#[requires(api_server)]
#[tokio::test]
async fn refused_watch_of_secrets_changes_nothing() {
    let mut harness = Harness::start("no-secrets").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let gateway = FakeGateway::start(&harness.status_token().await, &rendered_hash(&harness).await).await;
    harness.roll_out(&[&gateway]).await;
    harness.wait_for_condition("Ready", "True", "Serving").await;
    harness.stop_operator().await;
    let before: Deployment = harness.wait_for_object("vmcp-x").await;

    grant_without(&harness, "secrets").await;
    harness.start_operator().await;
    harness.wait_for_condition("Ready", "False", "WatchRefused").await;
    harness
        .wait_for_condition("Reconciling", "True", "WatchRefused")
        .await;
    let object: VirtualMCPServer = harness.wait_for_object("x").await;
    let conditions = object.status.unwrap().conditions;
    let message = &find(&conditions, "Ready").unwrap().message;
    assert!(
        message.contains("needs the rights list and watch for secrets: ") && message.contains("(403)"),
        "{message}"
    );
    assert!(find(&conditions, "GroupRefValidated").is_none(), "{conditions:?}");
    let after: Deployment = harness.wait_for_object("vmcp-x").await;
    assert_eq!(before.resource_version(), after.resource_version());

    bind(&harness, "ClusterRole", "operator", None).await;
    harness.wait_for_condition("Ready", "True", "Serving").await;
    assert_eq!(harness.refused_watches(), "");
}

// The binary is not ready while it lacks a right, and says which one.
#[requires(api_server)]
#[tokio::test]
async fn readyz_names_the_missing_rights() {
    let harness = Harness::without_operator("no-rights").await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcp-operator"));
    command
        .args([
            "--watch-namespaces",
            &harness.namespace,
            "--leader-election",
            "false",
        ])
        .args(["--admin-listen", "127.0.0.1:0", "--log-format", "json"])
        .env("KUBECONFIG", server().kubeconfig_as("without-rights").unwrap());
    let operator = Process::start("operator", &command).unwrap();
    let address = eventually("the log contains the admin address", async || {
        admin_address(&operator)
    })
    .await;
    eventually("it is not ready", async || {
        let (head, body) = request(&address, "readyz").await;
        let says = body.contains("needs the rights list and watch for mcpgroups.vmcp.dev");
        (head.starts_with("HTTP/1.1 503 ") && says).then_some(())
    })
    .await;
    let (head, _) = request(&address, "livez").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}
