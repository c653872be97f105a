//! How a change of backends reaches running gateways.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use serde_json::json;
use vmcp_crds::status::config_hash;
use vmcp_crds::v1alpha1::MCPServerEntry;
use vmcp_operator::desired::labels;

use crate::gateway::FakeGateway;
use crate::world::World;

/// The hash of the hot configuration as it stands in its ConfigMap.
pub(crate) async fn rendered_hash(world: &World) -> String {
    let hot: ConfigMap = world.child("vmcp-x-backends").await;
    config_hash(&hot.data.unwrap()["backends.yaml"])
}

/// Longer than the operator waits before it tells a pod again.
const PATIENCE: Duration = Duration::from_secs(4);

fn annotation(pod: &Pod) -> Option<String> {
    pod.annotations().get(labels::CONFIG_HASH).cloned()
}

#[tokio::test]
async fn a_change_of_backends_touches_only_the_hot_config_map_and_tells_the_pods() {
    let Some(world) = World::start("backends").await else {
        return;
    };
    world.group(&["time"]).await;
    world.server(json!({"replicas": 2})).await;
    let (token, before) = (world.status_token().await, rendered_hash(&world).await);
    let gateways = [
        FakeGateway::start(&token, &before).await,
        FakeGateway::start(&token, &before).await,
    ];
    world.roll_out(&[&gateways[0], &gateways[1]]).await;
    world.condition("Ready", "True").await;
    let deployment: Deployment = world.child("vmcp-x").await;
    for gateway in &gateways {
        let pod: Pod = world.child(&gateway.pod).await;
        assert_eq!(annotation(&pod), None, "a pod that is current is not told");
    }

    world.member("fetch").await;
    let changed = |hot: &ConfigMap| {
        let hash = config_hash(&hot.data.as_ref()?["backends.yaml"]);
        (hash != before).then_some(hash)
    };
    let after = world
        .sees("the ConfigMap has the new member", "vmcp-x-backends", changed)
        .await;
    for gateway in &gateways {
        let told = |pod: &Pod| (annotation(pod)? == after).then_some(());
        world.sees("the pod is told", &gateway.pod, told).await;
    }
    world.says("Ready", "False", "ConfigPending").await;
    let now: Deployment = world.child("vmcp-x").await;
    assert_eq!(
        now.metadata.generation, deployment.metadata.generation,
        "no pod is replaced"
    );

    gateways[0].say("hotConfigHash", json!(after));
    world
        .stays("one pod of two is not enough", "x", crate::world::not_ready)
        .await;
    gateways[1].say("hotConfigHash", json!(after));
    world.condition("Ready", "True").await;
}

#[tokio::test]
async fn a_member_that_leaves_the_group_leaves_the_configuration() {
    let Some(world) = World::start("leaves").await else {
        return;
    };
    world.group(&["time", "fetch"]).await;
    world.server(json!({})).await;
    let both = |hot: &ConfigMap| {
        hot.data.as_ref()?["backends.yaml"]
            .contains("fetch")
            .then_some(())
    };
    world.sees("both are there", "vmcp-x-backends", both).await;
    world
        .apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": "fetch"},
            "spec": {"groupRef": {"name": "another-group"}, "url": "http://fetch:8000/mcp"},
        }))
        .await;
    let one = |hot: &ConfigMap| (!hot.data.as_ref()?["backends.yaml"].contains("fetch")).then_some(());
    world.sees("one has left", "vmcp-x-backends", one).await;
    world
        .api::<MCPServerEntry>()
        .delete("time", &DeleteParams::default())
        .await
        .unwrap();
    let none = |hot: &ConfigMap| (hot.data.as_ref()?["backends.yaml"] == "{}\n").then_some(());
    world.sees("the other is gone", "vmcp-x-backends", none).await;
}

#[tokio::test]
async fn a_pod_that_does_not_take_the_configuration_is_told_three_times_and_no_more() {
    let Some(world) = World::start("stubborn").await else {
        return;
    };
    world.group(&["time"]).await;
    world.server(json!({})).await;
    let gateway = FakeGateway::start(&world.status_token().await, "an-old-hash").await;
    world.roll_out(&[&gateway]).await;
    let third = |pod: &Pod| annotation(pod)?.ends_with("again-2").then_some(());
    world.sees("it is told the third time", &gateway.pod, third).await;
    world.says("Ready", "False", "ConfigPending").await;
    let pod: Pod = world.child(&gateway.pod).await;
    let told = Instant::now();
    while told.elapsed() < PATIENCE {
        world.look().await;
    }
    // This look begins when a fourth time is due.
    world.look().await;
    let later: Pod = world.child(&gateway.pod).await;
    assert_eq!(later.resource_version(), pod.resource_version());
}

#[tokio::test]
async fn a_configuration_that_gateways_refuse_is_said_with_their_words() {
    let Some(world) = World::start("refused").await else {
        return;
    };
    world.group(&["time"]).await;
    world.server(json!({})).await;
    let gateway = FakeGateway::start(&world.status_token().await, "an-old-hash").await;
    gateway.say(
        "hotConfigError",
        json!("backends.yaml:2: at `backends[0].url`: no"),
    );
    world.roll_out(&[&gateway]).await;
    world.says("ConfigValid", "False", "ConfigRefused").await;
    gateway.say("hotConfigError", json!(null));
    gateway.say("hotConfigHash", json!(rendered_hash(&world).await));
    world.condition("ConfigValid", "True").await;
    world.condition("Ready", "True").await;
}
