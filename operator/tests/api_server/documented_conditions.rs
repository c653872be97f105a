//! Every reason in the tables of conditions in docs/kubernetes.md is produced by a test.

use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;
use vmcp_external::requires;

use crate::fake_gateway::FakeGateway;
use crate::harness::Harness;
use crate::hot_config::rendered_hash;

/// The reasons in the tables of conditions: rows of type, status and reason.
fn documented_reasons(page: &str) -> BTreeSet<&str> {
    let is_status = |cell: &str| {
        cell.split(',')
            .all(|word| ["True", "False", "Unknown"].contains(&word.trim()))
    };
    let is_reason = |word: &&str| {
        word.starts_with(|first: char| first.is_ascii_uppercase())
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    page.lines()
        .filter_map(|line| match line.split('|').collect::<Vec<_>>().as_slice() {
            ["", _, status, reasons, ..] if is_status(status) => Some(*reasons),
            _ => None,
        })
        .flat_map(|cell| cell.split([',', ' ']))
        .filter(is_reason)
        .collect()
}

#[test]
fn every_documented_reason_is_in_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("../docs/kubernetes.md")).unwrap();
    let mut tests = String::new();
    for folder in ["tests/api_server", "../e2e/tests"] {
        for file in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                tests.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let reasons = documented_reasons(&page);
    assert!(reasons.len() > 25, "{reasons:?}");
    let untested: Vec<_> = reasons
        .into_iter()
        .filter(|reason| *reason != "Ready" && !tests.contains(&format!("\"{reason}\"")))
        .collect();
    assert!(
        untested.is_empty(),
        "no test produces these reasons of docs/kubernetes.md: {untested:?}"
    );
}

// With the defaults, the group is found and the warning about memory does not apply.
#[requires(api_server)]
#[tokio::test]
async fn defaults_give_no_warning() {
    let harness = Harness::start("defaults").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("GroupRefValidated", "True", "GroupRefValid")
        .await;
    harness
        .wait_for_condition(
            "SessionStorageWarning",
            "False",
            "SessionStorageWarningNotApplicable",
        )
        .await;
}

#[requires(api_server)]
#[tokio::test]
async fn gateway_that_does_not_answer_is_reported() {
    let harness = Harness::start("unreachable").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let gateway = FakeGateway::start("another-token", &rendered_hash(&harness).await).await;
    harness.roll_out(&[&gateway]).await;
    harness
        .wait_for_condition("Ready", "False", "GatewayUnreachable")
        .await;
}

#[requires(api_server)]
#[tokio::test]
async fn server_with_zero_replicas_is_scaled_to_zero() {
    let harness = Harness::start("zero").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({"replicas": 0})).await;
    harness.observe_deployment(0).await;
    harness.wait_for_condition("Ready", "True", "ScaledToZero").await;
}

#[requires(api_server)]
#[tokio::test]
async fn rollout_without_progress_is_stalled() {
    let harness = Harness::start("no-progress").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let deployment: Deployment = harness.wait_for_object("vmcp-x").await;
    harness
        .apply_status(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "vmcp-x"},
            "status": {
                "observedGeneration": deployment.metadata.generation, "replicas": 1, "updatedReplicas": 1,
                "conditions": [{
                    "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out",
                }],
            },
        }))
        .await;
    harness
        .wait_for_condition("Stalled", "True", "ProgressDeadlineExceeded")
        .await;
}

#[requires(api_server)]
#[tokio::test]
async fn missing_config_map_or_key_is_reported() {
    let harness = Harness::start("ca-bundle").await;
    harness.apply_group(&[]).await;
    harness
        .apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": "time"},
            "spec": {
                "groupRef": {"name": "group"}, "url": "https://time:8000/mcp",
                "tls": {"caBundleRef": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}}},
            },
        }))
        .await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("SecretsResolved", "False", "ConfigMapNotFound")
        .await;
    harness
        .apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": {"other": "x"}}))
        .await;
    harness
        .wait_for_condition("SecretsResolved", "False", "ConfigMapKeyNotFound")
        .await;
}
