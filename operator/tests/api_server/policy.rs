//! What the operator's administrator allows virtual servers to name.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value as Json, json};
use vmcp_operator::policy::Policy;

use crate::world::World;

async fn world(name: &str, policy: Policy) -> Option<World> {
    let mut world = World::without_operator(name).await?;
    world.start_operator_with(policy).await;
    world.group(&[]).await;
    Some(world)
}

fn labelled(label: &str) -> Policy {
    Policy {
        image_prefixes: Vec::new(),
        secret_label: Some(label.parse().unwrap()),
    }
}

async fn secret(world: &World, name: &str, labels: Json, data: Json) {
    world
        .apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels}, "stringData": data,
        }))
        .await;
}

async fn has_deployment(world: &World) -> bool {
    let deployments = world.api::<Deployment>();
    deployments.get_opt("vmcp-x").await.unwrap().is_some()
}

#[tokio::test]
async fn image_outside_the_allowed_prefixes_is_not_run() {
    let policy = Policy {
        image_prefixes: vec!["registry.example/team".to_owned()],
        secret_label: None,
    };
    let Some(world) = world("images", policy).await else {
        return;
    };
    world
        .server(json!({"image": "registry.example/teams/evil:1"}))
        .await;
    world.says("ConfigValid", "False", "ImageNotAllowed").await;
    world.says("Stalled", "True", "ImageNotAllowed").await;
    assert!(!has_deployment(&world).await);

    world
        .server(json!({"image": "registry.example/team/gateway:1"}))
        .await;
    world.child::<Deployment>("vmcp-x").await;
    // Without an image the operator's own is taken, whatever the prefixes are.
    world.server(json!({})).await;
    let image = |deployment: &Deployment| {
        let image = deployment.spec.template.spec.as_ref()?.containers[0]
            .image
            .as_deref();
        (image == Some("vmcp-gateway:test")).then_some(())
    };
    world
        .sees("the image is the operator's own", "vmcp-x", image)
        .await;
}

#[tokio::test]
async fn secret_without_the_required_label_is_not_used() {
    let Some(world) = world("secret-label", labelled("vmcp.dev/usable=true")).await else {
        return;
    };
    let value = || json!({"password": "hunter2"});
    secret(&world, "redis", json!({"vmcp.dev/usable": "no"}), value()).await;
    world
        .server(json!({"sessionStorage": {
            "provider": "redis", "address": "redis:6379", "passwordRef": {"name": "redis", "key": "password"},
        }}))
        .await;
    world.says("SecretsResolved", "False", "SecretNotAllowed").await;
    assert!(!has_deployment(&world).await);

    secret(&world, "redis", json!({"vmcp.dev/usable": "true"}), value()).await;
    world.condition("SecretsResolved", "True").await;
    world.child::<Deployment>("vmcp-x").await;
    // The keys that the operator made need no label.
    world.child::<Secret>("vmcp-x-session-keys").await;
}

#[tokio::test]
async fn session_keys_that_nobody_controls_need_the_label() {
    let Some(world) = world("keys-label", labelled("usable")).await else {
        return;
    };
    let key = vmcp_crds::session_key::SessionKey::generate().unwrap().to_text();
    let keys = || json!({"current": key});
    secret(&world, "vmcp-x-session-keys", json!({}), keys()).await;
    world.server(json!({})).await;
    world.says("SecretsResolved", "False", "SecretNotAllowed").await;
    secret(&world, "vmcp-x-session-keys", json!({"usable": ""}), keys()).await;
    world.condition("SecretsResolved", "True").await;
}
