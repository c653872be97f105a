//! Which pods are gateways.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::json;
use vmcp_operator::desired::labels;

use crate::gateway::FakeGateway;
use crate::hot_config::rendered_hash;
use crate::world::World;

// Whoever may create a pod can give it our labels. It is not sent the token, and not written to.
#[tokio::test]
async fn pod_of_another_owner_is_not_sent_the_token() {
    let Some(world) = World::start("owned-pods").await else {
        return;
    };
    world.group(&["time"]).await;
    world.server(json!({})).await;
    let token = world.status_token().await;
    let (gateway, stranger) = (
        FakeGateway::start(&token, &rendered_hash(&world).await).await,
        FakeGateway::start(&token, "an-old-hash").await,
    );
    for kind in ["ReplicaSet", "Job"] {
        world
            .pod(&stranger, kind, "00000000-0000-4000-8000-000000000000")
            .await;
        world.look().await;
    }
    world.roll_out(&[&gateway]).await;
    world.condition("Ready", "True").await;
    for _ in 0..3 {
        world.look().await;
    }
    assert!(gateway.asked() > 0);
    assert_eq!(stranger.asked(), 0);
    let pod: Pod = world.child(&stranger.pod).await;
    assert!(!pod.annotations().contains_key(labels::CONFIG_HASH), "{pod:?}");
}
