//! Conditions and Events of a virtual server.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::DeleteParams;
use serde_json::json;
use vmcp_crds::v1alpha1::{MCPGroup, VirtualMCPServer};
use vmcp_external::requires;

use crate::fake_gateway::FakeGateway;
use crate::harness::Harness;
use crate::hot_config::rendered_hash;

#[requires(api_server)]
#[tokio::test]
async fn missing_group_is_waited_for() {
    let harness = Harness::start("group").await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("GroupRefValidated", "False", "GroupRefNotFound")
        .await;
    harness
        .wait_for_condition("Ready", "False", "GroupRefNotFound")
        .await;
    assert!(
        harness
            .api::<Deployment>()
            .get_opt("vmcp-x")
            .await
            .unwrap()
            .is_none()
    );
    harness.apply_group(&[]).await;
    harness.wait_for_status("GroupRefValidated", "True").await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
}

#[requires(api_server)]
#[tokio::test]
async fn deleted_group_keeps_running_pods() {
    let harness = Harness::start("group-goes").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({})).await;
    let hash = rendered_hash(&harness).await;
    harness
        .api::<MCPGroup>()
        .delete("group", &DeleteParams::default())
        .await
        .unwrap();
    harness.wait_for_status("GroupRefValidated", "False").await;
    assert_eq!(rendered_hash(&harness).await, hash);
    harness.wait_for_object::<Deployment>("vmcp-x").await;
}

// Becoming ready and losing readiness are reported by conditions and Events.
#[requires(api_server)]
#[tokio::test]
async fn readiness_is_reported_by_conditions_and_events() {
    let harness = Harness::start("way").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("Reconciling", "True", "DeploymentProgressing")
        .await;

    let gateway = FakeGateway::start(&harness.status_token().await, &rendered_hash(&harness).await).await;
    gateway.report("tools", json!(4));
    gateway.report(
        "backends",
        json!([{"name": "time", "state": "ready", "tools": 4}]),
    );
    harness.roll_out(&[&gateway]).await;
    harness.wait_for_condition("Ready", "True", "Serving").await;
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    let status = server.status.unwrap();
    assert_eq!(
        (status.backend_count, status.tool_count, status.replicas),
        (Some(1), Some(4), Some(1))
    );
    assert_eq!(status.observed_generation, server.metadata.generation);
    assert_eq!(
        status.url.unwrap(),
        format!("http://vmcp-x.{}.svc:4483/mcp", harness.namespace)
    );
    let types: Vec<&str> = status
        .conditions
        .iter()
        .map(|condition| condition.type_.as_str())
        .collect();
    assert!(
        !types.contains(&"Reconciling") && !types.contains(&"Stalled"),
        "{types:?}"
    );

    harness
        .api::<MCPGroup>()
        .delete("group", &DeleteParams::default())
        .await
        .unwrap();
    harness.wait_for_status("Ready", "False").await;
    harness.wait_for_event("Normal", "Serving").await;
    harness.wait_for_event("Warning", "GroupRefNotFound").await;
}

// After a change of the spec, the server is not ready until the change is rolled out.
#[requires(api_server)]
#[tokio::test]
async fn changed_spec_is_not_ready_before_rollout() {
    let harness = Harness::start("generation").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let gateway = FakeGateway::start(&harness.status_token().await, &rendered_hash(&harness).await).await;
    harness.roll_out(&[&gateway]).await;
    harness.wait_for_status("Ready", "True").await;

    harness.apply_server(json!({"image": "other:1"})).await;
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;
    harness.observe_deployment(1).await;
    harness.wait_for_status("Ready", "True").await;
}

#[requires(api_server)]
#[tokio::test]
async fn api_server_rejection_is_in_status() {
    let harness = Harness::start("quota").await;
    harness
        .apply(&json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
            "spec": {"hard": {"count/services": "0"}}, "status": {"hard": {"count/services": "0"}},
        }))
        .await;
    harness
        .apply_status(&json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
            "status": {"hard": {"count/services": "0"}, "used": {"count/services": "0"}},
        }))
        .await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness.wait_for_condition("Ready", "False", "ApplyRefused").await;
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    let message = &server.status.unwrap().conditions[0].message;
    assert!(
        message.contains("apply Service") && message.contains("exceeded quota"),
        "{message}"
    );
}
