//! The operator beside the real controllers, which make ReplicaSets and pods. No node runs these.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::json;
use vmcp_cluster::ApiServer;
use vmcp_operator::desired::labels;

use crate::gateway::FakeGateway;
use crate::hot_config::rendered_hash;
use crate::world::{World, eventually};

/// The pod whose controller's name begins with `owner`, once there is one.
async fn pod_of(world: &World, owner: &str) -> Pod {
    let api = world.api::<Pod>();
    eventually(&format!("{owner} has a pod"), async || {
        let pods = api.list(&ListParams::default()).await.unwrap();
        pods.items.into_iter().find(|pod| {
            let owners = pod.owner_references();
            owners
                .iter()
                .any(|found| found.controller == Some(true) && found.name.starts_with(owner))
        })
    })
    .await
}

// The controller manager sets the owners. A pod of somebody else's ReplicaSet bears the same labels, is ready, and is not sent the token.
#[tokio::test]
async fn pods_of_own_replica_sets_alone_are_sent_the_token() {
    if vmcp_peers::left_out("api-server") {
        return;
    }
    let server = tokio::task::spawn_blocking(ApiServer::start_with_controllers)
        .await
        .unwrap()
        .unwrap();
    let mut world = World::on(&server, "controller-manager").await;
    world.start_operator().await;
    world.group(&["time"]).await;
    world.server(json!({})).await;
    let token = world.status_token().await;
    let (gateway, stranger) = (
        FakeGateway::start(&token, &rendered_hash(&world).await).await,
        FakeGateway::start(&token, "an-old-hash").await,
    );
    let deployment: Deployment = world.child("vmcp-x").await;
    let mut labels = deployment.spec.template.metadata.unwrap().labels.unwrap();
    labels.insert("of".to_owned(), "stranger".to_owned());
    world
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "stranger"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"of": "stranger"}},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "gateway", "image": "x"}]},
                },
            },
        }))
        .await;
    let (own, foreign) = (
        pod_of(&world, "vmcp-x-").await.name_any(),
        pod_of(&world, "stranger").await.name_any(),
    );
    world.run(&foreign, &stranger).await;
    for _ in 0..3 {
        world.look().await;
    }
    world.run(&own, &gateway).await;
    world.condition("Ready", "True").await;
    for _ in 0..3 {
        world.look().await;
    }
    assert!(gateway.asked() > 0);
    assert_eq!(stranger.asked(), 0);
    let pod: Pod = world.child(&foreign).await;
    assert!(!pod.annotations().contains_key(labels::CONFIG_HASH), "{pod:?}");
    world.stop_operator().await;
    tokio::task::spawn_blocking(|| drop(server)).await.unwrap();
}
