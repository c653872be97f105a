//! A reconcile with nothing to do writes nothing.

use serde_json::json;
use vmcp_crds::v1alpha1::VirtualMCPServer;

use crate::gateway::FakeGateway;
use crate::hot_config::rendered_hash;
use crate::world::World;

#[tokio::test]
async fn a_server_that_is_as_it_should_be_is_not_written_whatever_makes_the_operator_look() {
    let Some(mut world) = World::start("quiet").await else {
        return;
    };
    world.group(&["time"]).await;
    world.server(json!({"replicas": 2})).await;
    let (token, hash) = (world.status_token().await, rendered_hash(&world).await);
    let gateways = [
        FakeGateway::start(&token, &hash).await,
        FakeGateway::start(&token, &hash).await,
    ];
    for gateway in &gateways {
        gateway.say(
            "backends",
            json!([{"name": "time", "state": "ready", "tools": 1}]),
        );
    }
    world.roll_out(&[&gateways[0], &gateways[1]]).await;
    world.condition("Ready", "True").await;
    world.settle().await;

    let (writes, versions) = (world.writes(), world.versions().await);
    for _ in 0..5 {
        world.look().await;
    }
    assert_eq!(world.writes(), writes, "requests that write");
    assert_eq!(world.versions().await, versions, "objects that changed");

    // A new operator remembers nothing: it applies everything once, and nothing of that is a change.
    world.stop_operator().await;
    world.start_operator().await;
    world.server(json!({"replicas": 2})).await;
    world.settle().await;
    assert_eq!(
        world.versions().await,
        versions,
        "objects that changed because the operator is a new one"
    );
    let server: VirtualMCPServer = world.child("x").await;
    assert!(server.status.is_some());
}
