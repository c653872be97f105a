//! The Secrets of a virtual server: session keys, the Redis password, and certificates.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value as Json, json};
use vmcp_crds::session_key::SessionKey;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::requires;
use vmcp_operator::desired::labels;

use crate::fake_gateway::FakeGateway;
use crate::harness::Harness;
use crate::hot_config::rendered_hash;

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

// Lost keys are created again, an Event says so, and the pods, which still have the old ones, are nudged.
#[requires(api_server)]
#[tokio::test]
async fn lost_session_keys_are_recreated_and_pods_nudged() {
    let harness = Harness::start("lost-keys").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({})).await;
    let (token, hash) = (harness.status_token().await, rendered_hash(&harness).await);
    let gateway = FakeGateway::start(&token, &hash).await;
    harness.roll_out(&[&gateway]).await;
    harness.settle().await;
    let nudged = |pod: &Pod| pod.annotations().get(labels::SECRETS_MAC).cloned();
    let pod: Pod = harness.wait_for_object(&gateway.pod).await;
    assert_eq!(nudged(&pod), None, "the first keys need no nudge");
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
    harness.wait_for_event("Warning", "SessionKeysLost").await;
    harness.wait_for("the pod is nudged", &gateway.pod, nudged).await;
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
        .wait_for_conditions(&[
            ("SecretsResolved", "False", "SessionKeysInvalid"),
            ("Ready", "False", "SessionKeysInvalid"),
            ("Stalled", "True", "SessionKeysInvalid"),
        ])
        .await;
    let secret: Secret = harness.wait_for_object("vmcp-x-session-keys").await;
    assert_eq!(secret.data.unwrap()["current"].0, b"nonsense");
}

/// The condition message of `SecretsResolved`, if the condition is true.
fn resolved_message(server: &VirtualMCPServer) -> Option<String> {
    let conditions = &server.status.as_ref()?.conditions;
    let condition = vmcp_crds::condition::find(conditions, "SecretsResolved")?;
    (condition.status == "True").then(|| condition.message.clone())
}

// A line break at the end of the password is cut and warned of. Without it the password is the same, so the pods stay.
#[requires(api_server)]
#[tokio::test]
async fn line_break_after_password_is_warned_of() {
    let harness = Harness::start("line-break").await;
    harness.apply_group(&[]).await;
    password(&harness, "hunter2\n").await;
    harness.apply_server(redis()).await;
    let warned = |server: &VirtualMCPServer| {
        let message = resolved_message(server)?;
        (message.contains("key password of Secret redis ends with a line break")
            && !message.contains("hunter2"))
        .then_some(())
    };
    harness.wait_for("the condition warns", "x", warned).await;
    let deployment: Deployment = harness.wait_for_object("vmcp-x").await;
    password(&harness, "hunter2").await;
    let not_warned =
        |server: &VirtualMCPServer| (!resolved_message(server)?.contains("line break")).then_some(());
    harness.wait_for("the warning goes", "x", not_warned).await;
    let now: Deployment = harness.wait_for_object("vmcp-x").await;
    assert_eq!(mac(&now), mac(&deployment));

    password(&harness, "\n").await;
    harness
        .wait_for_condition("SecretsResolved", "False", "SecretValueInvalid")
        .await;
}

/// Applies the Secret `name` with PEM text that begins with these words.
async fn pem(harness: &Harness, name: &str, key: &str, text: &str) {
    let data = json!({key: format!("-----BEGIN {text}")});
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
    harness.apply(&secret).await;
}

// The authorities for Redis and for the issuer are mounted. The gateway reads changed ones again, so a change nudges the pods and replaces
// none.
#[requires(api_server)]
#[tokio::test]
async fn authorities_of_redis_and_issuer_are_mounted() {
    let harness = Harness::start("server-tls").await;
    harness.apply_group(&[]).await;
    let bundle = |name: &str| json!({"secretKeyRef": {"name": name, "key": "ca.crt"}});
    harness
        .apply_server(json!({
            "sessionStorage": {
                "provider": "redis", "address": "redis:6379",
                "tls": {"caBundleRef": bundle("redis-ca"), "serverName": "redis.tools.svc"},
            },
            "incomingAuth": {"type": "oidc", "oidc": {
                "issuer": "https://id", "audience": ["https://a"], "caBundleRef": bundle("issuer-ca"),
            }},
        }))
        .await;
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
    pem(&harness, "redis-ca", "ca.crt", "CERTIFICATE----- one").await;
    pem(&harness, "issuer-ca", "ca.crt", "CERTIFICATE----- one").await;
    let deployment: Deployment = harness.wait_for_object("vmcp-x").await;
    let text = serde_json::to_string(&deployment).unwrap();
    for path in ["redis/ca.crt", "oidc/ca.crt"] {
        assert!(text.contains(path), "{text}");
    }
    let mut startup = String::new();
    for config_map in harness
        .api::<ConfigMap>()
        .list(&ListParams::default())
        .await
        .unwrap()
    {
        startup.push_str(&serde_json::to_string(&config_map.data).unwrap());
    }
    for line in [
        "caFile: /etc/vmcp/secrets/redis/ca.crt",
        "serverName: redis.tools.svc",
        "caBundlePath: /etc/vmcp/secrets/oidc/ca.crt",
    ] {
        assert!(startup.contains(line), "{startup}");
    }

    let (token, hash) = (harness.status_token().await, rendered_hash(&harness).await);
    let gateway = FakeGateway::start(&token, &hash).await;
    harness.roll_out(&[&gateway]).await;
    let nudged = |pod: &Pod| pod.annotations().get(labels::SECRETS_MAC).cloned();
    let mut mac = harness.wait_for("the pod is nudged", &gateway.pod, nudged).await;
    for name in ["redis-ca", "issuer-ca"] {
        pem(&harness, name, "ca.crt", "CERTIFICATE----- two").await;
        let again = |pod: &Pod| nudged(pod).filter(|now| *now != mac);
        mac = harness
            .wait_for("the pod is nudged again", &gateway.pod, again)
            .await;
    }
    let same = |now: &Deployment| now.spec.template == deployment.spec.template;
    harness.assert_stays("the pods stay", "vmcp-x", same).await;
}

/// Applies the virtual server `x` with Redis and a request to rotate its session keys.
async fn request_rotation(harness: &Harness, request: &str) {
    let mut spec = redis();
    spec["groupRef"] = json!({"name": "group"});
    spec["replicas"] = json!(1);
    harness
        .apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer",
            "metadata": {"name": "x", "annotations": {labels::ROTATE_SESSION_KEYS: request}}, "spec": spec,
        }))
        .await;
}

// A rotation moves the keys, nudges the pods and replaces none; a pod that still has the old keys stays ready. A second one is refused.
#[requires(api_server)]
#[tokio::test]
async fn rotation_moves_keys_and_second_is_refused() {
    let harness = Harness::start("rotation").await;
    harness.apply_group(&["time"]).await;
    password(&harness, "hunter2").await;
    // The keys are new, so there is nothing to rotate yet.
    request_rotation(&harness, "first").await;
    let (token, hash) = (harness.status_token().await, rendered_hash(&harness).await);
    let gateway = FakeGateway::start(&token, &hash).await;
    harness.roll_out(&[&gateway]).await;
    harness.wait_for_status("Ready", "True").await;
    harness.settle().await;
    let before: Secret = harness.wait_for_object("vmcp-x-session-keys").await;
    let deployment: Deployment = harness.wait_for_object("vmcp-x").await;
    let before = before.data.unwrap();
    assert!(!before.contains_key("previous"));

    request_rotation(&harness, "second").await;
    let rotated = |secret: &Secret| {
        let data = secret.data.clone()?;
        (data["current"] == before["next"] && data.get("previous") == Some(&before["current"]))
            .then_some(data)
    };
    let after = harness
        .wait_for("the keys are rotated", "vmcp-x-session-keys", rotated)
        .await;
    harness.wait_for_event("Normal", "SessionKeysRotated").await;
    let nudged = |pod: &Pod| pod.annotations().get(labels::SECRETS_MAC).cloned();
    harness.wait_for("the pod is nudged", &gateway.pod, nudged).await;
    harness.settle().await;
    harness.wait_for_status("Ready", "True").await;
    let now: Deployment = harness.wait_for_object("vmcp-x").await;
    assert_eq!(
        now.metadata.generation, deployment.metadata.generation,
        "no pod is replaced"
    );

    request_rotation(&harness, "third").await;
    harness
        .wait_for_event("Warning", "SessionKeyRotationRefused")
        .await;
    let refused = |server: &VirtualMCPServer| {
        let message = resolved_message(server)?;
        message.contains("the last rotation is too recent").then_some(())
    };
    harness.wait_for("the condition says so", "x", refused).await;
    harness.settle().await;
    let kept = |secret: &Secret| secret.data.as_ref() == Some(&after);
    harness
        .assert_stays("the keys are the same", "vmcp-x-session-keys", kept)
        .await;
}

// With a Redis password, the second rotation replaces the pods, because the key of the MAC in the pod template is gone. The first one does not.
#[requires(api_server)]
#[tokio::test]
async fn second_rotation_with_redis_password_replaces_pods() {
    let harness = Harness::start("rotations").await;
    harness.apply_group(&["time"]).await;
    password(&harness, "hunter2").await;
    request_rotation(&harness, "first").await;
    let mac = |deployment: &Deployment| {
        let annotations = deployment.spec.template.metadata.as_ref()?.annotations.as_ref()?;
        annotations.get(labels::PASSWORD_MAC).cloned()
    };
    let before = harness.wait_for("the template has the MAC", "vmcp-x", mac).await;
    let answered = |request: &'static str| {
        let is_answered = move |secret: &Secret| {
            let answered = secret.annotations().get(labels::ROTATION).map(String::as_str);
            (answered == Some(request)).then_some(())
        };
        harness.wait_for(request, "vmcp-x-session-keys", is_answered)
    };
    request_rotation(&harness, "second").await;
    answered("second").await;
    harness.settle().await;
    let after: Deployment = harness.wait_for_object("vmcp-x").await;
    assert_eq!(mac(&after).as_ref(), Some(&before), "no pod is replaced");

    // As if the maximum lifetime of a session had passed.
    let earlier = json!({"metadata": {"annotations": {labels::ROTATED_AT: "2020-01-01T00:00:00Z"}}});
    harness
        .api::<Secret>()
        .patch(
            "vmcp-x-session-keys",
            &PatchParams::default(),
            &Patch::Merge(&earlier),
        )
        .await
        .unwrap();
    request_rotation(&harness, "third").await;
    answered("third").await;
    let changed = |deployment: &Deployment| mac(deployment).filter(|now| *now != before);
    harness.wait_for("the pods are replaced", "vmcp-x", changed).await;
}
