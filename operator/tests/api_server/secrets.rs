//! Session keys and the password of Redis.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value as Json, json};
use vmcp_crds::session_key::SessionKey;
use vmcp_operator::desired::labels;

use crate::world::{World, eventually};

fn redis() -> Json {
    json!({"sessionStorage": {
        "provider": "redis", "address": "redis:6379", "passwordRef": {"name": "redis", "key": "password"},
    }})
}

async fn password(world: &World, value: &str) {
    world
        .apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis"}, "stringData": {"password": value},
        }))
        .await;
}

fn sticky(service: &Service) -> Option<()> {
    (service.spec.as_ref()?.session_affinity.as_deref() == Some("ClientIP")).then_some(())
}

fn mac(deployment: &Deployment) -> Option<String> {
    let template = deployment.spec.template.metadata.as_ref()?;
    template.annotations.as_ref()?.get(labels::PASSWORD_MAC).cloned()
}

#[tokio::test]
async fn the_password_is_only_a_reference_and_a_changed_one_rolls_the_pods() {
    let Some(world) = World::start("password").await else {
        return;
    };
    world.group(&[]).await;
    password(&world, "correct horse battery").await;
    world.server(redis()).await;

    let deployment: Deployment = world.child("vmcp-x").await;
    let before = mac(&deployment).unwrap();
    let environment = deployment.spec.template.spec.as_ref().unwrap().containers[0]
        .env
        .clone()
        .unwrap();
    let variable = environment
        .iter()
        .find(|variable| variable.name == "THV_SESSION_REDIS_PASSWORD")
        .unwrap();
    assert_eq!(variable.value, None);
    let reference = variable
        .value_from
        .as_ref()
        .unwrap()
        .secret_key_ref
        .as_ref()
        .unwrap();
    assert_eq!(
        (reference.name.as_str(), reference.key.as_str()),
        ("redis", "password")
    );
    let mut texts = vec![serde_json::to_string(&deployment).unwrap()];
    for config_map in world
        .api::<ConfigMap>()
        .list(&ListParams::default())
        .await
        .unwrap()
    {
        texts.push(serde_json::to_string(&config_map).unwrap());
    }
    assert!(texts.len() >= 3);
    assert!(
        texts.iter().all(|text| !text.contains("correct horse")),
        "{texts:?}"
    );

    password(&world, "another").await;
    let another = |deployment: &Deployment| mac(deployment).filter(|mac| *mac != before);
    let after = world.sees("the annotation changes", "vmcp-x", another).await;

    // What other controllers do to a Secret does not roll pods.
    let labelled = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis", "labels": {"a": "b"}}, "stringData": {"password": "another"}});
    world.apply(&labelled).await;
    world
        .stays(
            "the annotation is the same",
            "vmcp-x",
            |deployment: &Deployment| mac(deployment).as_ref() == Some(&after),
        )
        .await;
}

#[tokio::test]
async fn a_missing_password_is_waited_for() {
    let Some(world) = World::start("no-password").await else {
        return;
    };
    world.group(&[]).await;
    world.server(redis()).await;
    world.says("SecretsResolved", "False", "SecretNotFound").await;
    assert!(
        world
            .api::<Deployment>()
            .get_opt("vmcp-x")
            .await
            .unwrap()
            .is_none()
    );

    let empty = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis"}, "stringData": {"user": "x"}});
    world.apply(&empty).await;
    world.says("SecretsResolved", "False", "SecretKeyNotFound").await;

    password(&world, "secret").await;
    world.condition("SecretsResolved", "True").await;
    world.child::<Deployment>("vmcp-x").await;
}

#[tokio::test]
async fn the_session_keys_are_made_once_and_kept() {
    let Some(mut world) = World::start("keys").await else {
        return;
    };
    world.group(&[]).await;
    world.server(json!({})).await;
    world.child::<Deployment>("vmcp-x").await;
    let first: Secret = world.child("vmcp-x-session-keys").await;
    for slot in ["current", "next"] {
        let text = String::from_utf8(first.data.as_ref().unwrap()[slot].0.clone()).unwrap();
        SessionKey::parse(&text).unwrap();
    }

    world.stop_operator().await;
    world.start_operator().await;
    world.server(json!({"sessionAffinity": "ClientIP"})).await;
    world.sees("the new operator works", "vmcp-x", sticky).await;
    let keys = |secret: &Secret| secret.resource_version() == first.resource_version();
    world
        .stays("the keys are the same", "vmcp-x-session-keys", keys)
        .await;
}

#[tokio::test]
async fn lost_session_keys_are_made_anew_and_that_is_told() {
    let Some(world) = World::start("lost-keys").await else {
        return;
    };
    world.group(&[]).await;
    world.server(json!({})).await;
    world.child::<Deployment>("vmcp-x").await;
    let first: Secret = world.child("vmcp-x-session-keys").await;
    let secrets = world.api::<Secret>();
    secrets
        .delete("vmcp-x-session-keys", &DeleteParams::default())
        .await
        .unwrap();
    let other = |secret: &Secret| (secret.uid() != first.uid()).then_some(());
    world
        .sees("there are keys again", "vmcp-x-session-keys", other)
        .await;
    let events = world.api::<k8s_openapi::api::events::v1::Event>();
    eventually("an event tells of it", async || {
        let list = events.list(&ListParams::default()).await.unwrap();
        list.iter()
            .any(|event| event.reason.as_deref() == Some("SessionKeysLost"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_secret_that_holds_no_keys_is_left_alone() {
    let Some(world) = World::start("bad-keys").await else {
        return;
    };
    world.group(&[]).await;
    let foreign = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vmcp-x-session-keys"}, "stringData": {"current": "nonsense"},
    });
    world.apply(&foreign).await;
    world.server(json!({})).await;
    world.says("Stalled", "True", "SessionKeysInvalid").await;
    let secret: Secret = world.child("vmcp-x-session-keys").await;
    assert_eq!(secret.data.unwrap()["current"].0, b"nonsense");
}
