//! Several operators that watch the same namespace.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use serde_json::json;
use vmcp_crds::condition::find;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::requires;
use vmcp_operator::policy::Policy;

use crate::harness::{Harness, eventually};

fn image(deployment: &Deployment) -> Option<String> {
    let pod = deployment.spec.template.spec.as_ref()?;
    pod.containers[0].image.clone()
}

// Both installations have the same field manager, so the API server reports no conflict. Each notices the other one and names it, and they do not
// replace each other's pods for ever.
#[requires(api_server)]
#[tokio::test]
async fn second_installation_is_named_and_does_not_fight() {
    let mut harness = Harness::start("two-installations").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;
    let second = harness
        .spawn_operator(Policy::default(), "team-a/another", "vmcp-gateway:other")
        .await;
    harness
        .wait_for_condition("Stalled", "True", "OtherInstallation")
        .await;
    // The second one reports it when it has noticed the first one, too.
    harness.settle().await;
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    let conditions = server.status.unwrap().conditions;
    let message = &find(&conditions, "Stalled").unwrap().message;
    assert!(
        message.contains("team-a/another and vmcp-system/vmcp-operator"),
        "{message}"
    );
    let events = harness.api::<Event>();
    eventually("an Event names both", async || {
        let list = events.list(&ListParams::default()).await.unwrap();
        let names = |event: &Event| event.note.as_deref() == Some(message.as_str());
        list.items.iter().any(names).then_some(())
    })
    .await;

    // With one installation left, its image is put back.
    second.stop().await;
    harness.stop_operator().await;
    harness.start_operator().await;
    let is_ours = |deployment: &Deployment| (image(deployment)? == "vmcp-gateway:test").then_some(());
    harness.wait_for("the image is put back", "vmcp-x", is_ours).await;
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;
}

// Two processes of one installation, as during a change of the leader, write the same.
#[requires(api_server)]
#[tokio::test]
async fn overlapping_leaders_change_nothing() {
    let harness = Harness::start("two-leaders").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({"replicas": 2})).await;
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;
    harness.settle().await;
    let versions = harness.versions().await;
    let second = harness
        .spawn_operator(
            Policy::default(),
            "vmcp-system/vmcp-operator",
            "vmcp-gateway:test",
        )
        .await;
    for _ in 0..5 {
        harness.reconcile().await;
    }
    harness.settle().await;
    assert_eq!(harness.versions().await, versions, "objects that changed");
    second.stop().await;
}
