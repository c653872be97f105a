//! The Secrets of a virtual server: session keys and the Redis password.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value as Json, json};
use vmcp_crds::session_key::SessionKey;
use vmcp_external::requires;
use vmcp_operator::desired::labels;

use crate::harness::{Harness, eventually};

fn redis() -> Json {
    json!({"sessionStorage": {
        "provider": "redis", "address": "redis:6379", "passwordRef": {"name": "redis", "key": "password"},
    }})
}

async fn password(harness: &Harness, value: &str) {
    harness
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

// Objects contain only a reference to the password, and a changed password rolls the pods.
#[requires(api_server)]
#[tokio::test]
async fn password_is_referenced_and_change_rolls_pods() {
    let harness = Harness::start("password").await;
    harness.apply_group(&[]).await;
    password(&harness, "correct horse battery").await;
    harness.apply_server(redis()).await;

    let deployment: Deployment = harness.wait_for_object("vmcp-x").await;
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
    for config_map in harness
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

    password(&harness, "another").await;
    let another = |deployment: &Deployment| mac(deployment).filter(|mac| *mac != before);
    let after = harness
        .wait_for("the annotation changes", "vmcp-x", another)
        .await;

    // A change of other parts of the Secret does not roll pods.
    let labelled = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis", "labels": {"a": "b"}}, "stringData": {"password": "another"}});
    harness.apply(&labelled).await;
    harness
        .assert_stays(
            "the annotation is the same",
            "vmcp-x",
            |deployment: &Deployment| mac(deployment).as_ref() == Some(&after),
        )
        .await;
}

#[requires(api_server)]
#[tokio::test]
async fn missing_password_is_waited_for() {
    let harness = Harness::start("no-password").await;
    harness.apply_group(&[]).await;
    harness.apply_server(redis()).await;
    harness
        .wait_for_condition("SecretsResolved", "False", "SecretNotFound")
        .await;
    assert!(
        harness
            .api::<Deployment>()
            .get_opt("vmcp-x")
            .await
            .unwrap()
            .is_none()
    );

    let empty = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis"}, "stringData": {"user": "x"}});
    harness.apply(&empty).await;
    harness
        .wait_for_condition("SecretsResolved", "False", "SecretKeyNotFound")
        .await;

    password(&harness, "secret").await;
    harness.wait_for_status("SecretsResolved", "True").await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
}

#[requires(api_server)]
#[tokio::test]
async fn session_keys_are_created_once_and_kept() {
    let mut harness = Harness::start("keys").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    let first: Secret = harness.wait_for_object("vmcp-x-session-keys").await;
    for slot in ["current", "next"] {
        let text = String::from_utf8(first.data.as_ref().unwrap()[slot].0.clone()).unwrap();
        SessionKey::parse(&text).unwrap();
    }

    harness.stop_operator().await;
    harness.start_operator().await;
    harness.apply_server(json!({"sessionAffinity": "ClientIP"})).await;
    harness
        .wait_for("the new operator reconciles", "vmcp-x", sticky)
        .await;
    let keys = |secret: &Secret| secret.resource_version() == first.resource_version();
    harness
        .assert_stays("the keys are the same", "vmcp-x-session-keys", keys)
        .await;
}

#[requires(api_server)]
#[tokio::test]
async fn lost_session_keys_are_recreated_with_event() {
    let harness = Harness::start("lost-keys").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    let first: Secret = harness.wait_for_object("vmcp-x-session-keys").await;
    let secrets = harness.api::<Secret>();
    secrets
        .delete("vmcp-x-session-keys", &DeleteParams::default())
        .await
        .unwrap();
    let other = |secret: &Secret| (secret.uid() != first.uid()).then_some(());
    harness
        .wait_for("there are keys again", "vmcp-x-session-keys", other)
        .await;
    let events = harness.api::<k8s_openapi::api::events::v1::Event>();
    eventually("an Event reports it", async || {
        let list = events.list(&ListParams::default()).await.unwrap();
        list.iter()
            .any(|event| event.reason.as_deref() == Some("SessionKeysLost"))
            .then_some(())
    })
    .await;
}

#[requires(api_server)]
#[tokio::test]
async fn secret_without_valid_keys_is_left_alone() {
    let harness = Harness::start("bad-keys").await;
    harness.apply_group(&[]).await;
    let foreign = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vmcp-x-session-keys"}, "stringData": {"current": "nonsense"},
    });
    harness.apply(&foreign).await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("Stalled", "True", "SessionKeysInvalid")
        .await;
    let secret: Secret = harness.wait_for_object("vmcp-x-session-keys").await;
    assert_eq!(secret.data.unwrap()["current"].0, b"nonsense");
}
