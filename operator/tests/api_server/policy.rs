//! The administrator's policy on images and Secrets.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value as Json, json};
use vmcp_external::requires;
use vmcp_operator::policy::Policy;

use crate::harness::Harness;

async fn harness(name: &str, policy: Policy) -> Harness {
    let mut harness = Harness::without_operator(name).await;
    harness.start_operator_with(policy).await;
    harness.apply_group(&[]).await;
    harness
}

fn labelled(label: &str) -> Policy {
    Policy {
        image_prefixes: Vec::new(),
        secret_label: Some(label.parse().unwrap()),
    }
}

async fn secret(harness: &Harness, name: &str, labels: Json, data: Json) {
    harness
        .apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels}, "stringData": data,
        }))
        .await;
}

async fn has_deployment(harness: &Harness) -> bool {
    let deployments = harness.api::<Deployment>();
    deployments.get_opt("vmcp-x").await.unwrap().is_some()
}

#[requires(api_server)]
#[tokio::test]
async fn image_without_allowed_prefix_is_not_run() {
    let policy = Policy {
        image_prefixes: vec!["registry.example/team".to_owned()],
        secret_label: None,
    };
    let harness = harness("images", policy).await;
    harness
        .apply_server(json!({"image": "registry.example/teams/evil:1"}))
        .await;
    harness
        .wait_for_condition("ConfigValid", "False", "ImageNotAllowed")
        .await;
    harness
        .wait_for_condition("Stalled", "True", "ImageNotAllowed")
        .await;
    assert!(!has_deployment(&harness).await);

    harness
        .apply_server(json!({"image": "registry.example/team/gateway:1"}))
        .await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    // Without spec.image the default image is used, even if no prefix allows it.
    harness.apply_server(json!({})).await;
    let image = |deployment: &Deployment| {
        let image = deployment.spec.template.spec.as_ref()?.containers[0]
            .image
            .as_deref();
        (image == Some("vmcp-gateway:test")).then_some(())
    };
    harness
        .wait_for("the image is the default", "vmcp-x", image)
        .await;
}

#[requires(api_server)]
#[tokio::test]
async fn secret_without_required_label_is_not_used() {
    let harness = harness("secret-label", labelled("vmcp.dev/usable=true")).await;
    let value = || json!({"password": "hunter2"});
    secret(&harness, "redis", json!({"vmcp.dev/usable": "no"}), value()).await;
    harness
        .apply_server(json!({"sessionStorage": {
            "provider": "redis", "address": "redis:6379", "passwordRef": {"name": "redis", "key": "password"},
        }}))
        .await;
    harness
        .wait_for_conditions(&[
            ("SecretsResolved", "False", "SecretNotAllowed"),
            ("Ready", "False", "SecretNotAllowed"),
        ])
        .await;
    assert!(!has_deployment(&harness).await);

    secret(&harness, "redis", json!({"vmcp.dev/usable": "true"}), value()).await;
    harness.wait_for_status("SecretsResolved", "True").await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    // The session keys that the operator created need no label.
    harness.wait_for_object::<Secret>("vmcp-x-session-keys").await;
}

#[requires(api_server)]
#[tokio::test]
async fn session_keys_without_controller_need_label() {
    let harness = harness("keys-label", labelled("usable")).await;
    let key = vmcp_crds::session_key::SessionKey::generate().unwrap().to_text();
    let keys = || json!({"current": key});
    secret(&harness, "vmcp-x-session-keys", json!({}), keys()).await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("SecretsResolved", "False", "SecretNotAllowed")
        .await;
    secret(&harness, "vmcp-x-session-keys", json!({"usable": ""}), keys()).await;
    harness.wait_for_status("SecretsResolved", "True").await;
}
