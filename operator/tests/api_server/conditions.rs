//! What the status says, and when.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use vmcp_crds::v1alpha1::{MCPGroup, VirtualMCPServer};

use crate::gateway::FakeGateway;
use crate::hot_config::rendered_hash;
use crate::world::{World, eventually};

#[tokio::test]
async fn a_missing_group_is_waited_for() {
    let Some(world) = World::start("group").await else {
        return;
    };
    world.server(json!({})).await;
    world.says("GroupRefValidated", "False", "GroupRefNotFound").await;
    world.says("Ready", "False", "GroupRefNotFound").await;
    assert!(
        world
            .api::<Deployment>()
            .get_opt("vmcp-x")
            .await
            .unwrap()
            .is_none()
    );
    world.group(&[]).await;
    world.condition("GroupRefValidated", "True").await;
    world.child::<Deployment>("vmcp-x").await;
}

#[tokio::test]
async fn a_group_that_goes_takes_no_pod_with_it() {
    let Some(world) = World::start("group-goes").await else {
        return;
    };
    world.group(&["time"]).await;
    world.server(json!({})).await;
    let hash = rendered_hash(&world).await;
    world
        .api::<MCPGroup>()
        .delete("group", &DeleteParams::default())
        .await
        .unwrap();
    world.condition("GroupRefValidated", "False").await;
    assert_eq!(rendered_hash(&world).await, hash);
    world.child::<Deployment>("vmcp-x").await;
}

#[tokio::test]
async fn the_way_to_ready_and_back_is_told_by_conditions_and_events() {
    let Some(world) = World::start("way").await else {
        return;
    };
    world.group(&["time"]).await;
    world.server(json!({})).await;
    world.says("Reconciling", "True", "DeploymentProgressing").await;

    let gateway = FakeGateway::start(&world.status_token().await, &rendered_hash(&world).await).await;
    gateway.say("tools", json!(4));
    gateway.say(
        "backends",
        json!([{"name": "time", "state": "ready", "tools": 4}]),
    );
    world.roll_out(&[&gateway]).await;
    world.says("Ready", "True", "Serving").await;
    let server: VirtualMCPServer = world.child("x").await;
    let status = server.status.unwrap();
    assert_eq!(
        (status.backend_count, status.tool_count, status.replicas),
        (Some(1), Some(4), Some(1))
    );
    assert_eq!(status.observed_generation, server.metadata.generation);
    assert_eq!(
        status.url.unwrap(),
        format!("http://vmcp-x.{}.svc:4483/mcp", world.namespace)
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

    world
        .api::<MCPGroup>()
        .delete("group", &DeleteParams::default())
        .await
        .unwrap();
    world.condition("Ready", "False").await;
    let events = world.api::<Event>();
    eventually("events tell of both", async || {
        let list = events.list(&ListParams::default()).await.unwrap();
        let mut told: Vec<_> = list
            .iter()
            .filter_map(|event| Some((event.type_.clone()?, event.reason.clone()?)))
            .collect();
        told.dedup();
        let has = |type_: &str, reason: &str| told.contains(&(type_.to_owned(), reason.to_owned()));
        (has("Normal", "Serving") && has("Warning", "GroupRefNotFound")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_change_of_the_spec_is_not_called_ready_before_it_is_rolled_out() {
    let Some(world) = World::start("generation").await else {
        return;
    };
    world.group(&[]).await;
    world.server(json!({})).await;
    let gateway = FakeGateway::start(&world.status_token().await, &rendered_hash(&world).await).await;
    world.roll_out(&[&gateway]).await;
    world.condition("Ready", "True").await;

    world.server(json!({"image": "other:1"})).await;
    world.says("Ready", "False", "DeploymentProgressing").await;
    world.observe_deployment(1).await;
    world.condition("Ready", "True").await;
}

#[tokio::test]
async fn what_the_api_server_refuses_is_in_the_status() {
    let Some(world) = World::start("quota").await else {
        return;
    };
    world
        .apply(&json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
            "spec": {"hard": {"count/services": "0"}}, "status": {"hard": {"count/services": "0"}},
        }))
        .await;
    world
        .apply_status(&json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
            "status": {"hard": {"count/services": "0"}, "used": {"count/services": "0"}},
        }))
        .await;
    world.group(&[]).await;
    world.server(json!({})).await;
    world.says("Ready", "False", "ApplyRefused").await;
    let server: VirtualMCPServer = world.child("x").await;
    let message = &server.status.unwrap().conditions[0].message;
    assert!(
        message.contains("apply Service") && message.contains("exceeded quota"),
        "{message}"
    );
}
