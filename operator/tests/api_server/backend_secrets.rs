//! The Secrets and ConfigMaps that the entries of a group refer to.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value as Json, json};
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::requires;
use vmcp_operator::desired::labels;
use vmcp_operator::policy::Policy;

use crate::fake_gateway::FakeGateway;
use crate::harness::Harness;
use crate::hot_config::rendered_hash;

const SECRET_VALUE: &str = "canary-hunter2";

/// Applies the entry `weather` with `spec`.
async fn entry(harness: &Harness, mut spec: Json) {
    spec["groupRef"] = json!({"name": "group"});
    spec["url"] = json!("https://weather:8000/mcp");
    harness
        .apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": "weather"}, "spec": spec,
        }))
        .await;
}

async fn entry_with_token(harness: &Harness) {
    entry_with_key(harness, "token").await;
}

/// Applies the entry `weather` with a header from this key of the Secret `weather`.
async fn entry_with_key(harness: &Harness, key: &str) {
    let source = json!({"prefix": "Bearer ", "secretKeyRef": {"name": "weather", "key": key}});
    entry(harness, json!({"headers": {"Authorization": source}})).await;
}

async fn secret(harness: &Harness, labels: Json, data: Json) {
    harness
        .apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "weather", "labels": labels}, "stringData": data,
        }))
        .await;
}

/// Waits until `SecretsResolved` is false with this reason and a message that contains `text`.
async fn wait_for_message(harness: &Harness, reason: &str, text: &str) {
    let has = |server: &VirtualMCPServer| {
        let status = server.status.as_ref()?;
        let condition = vmcp_crds::condition::find(&status.conditions, "SecretsResolved")?;
        let found =
            condition.status == "False" && condition.reason == reason && condition.message.contains(text);
        found.then_some(())
    };
    harness
        .wait_for(&format!("SecretsResolved is {reason}: {text}"), "x", has)
        .await;
}

/// Waits until the hot configuration has the entry `weather`, or has not.
async fn wait_for_backend(harness: &Harness, expected: bool) {
    let has = |hot: &ConfigMap| {
        let text = &hot.data.as_ref()?["backends.yaml"];
        (text.contains("time:8000") && text.contains("weather") == expected).then_some(())
    };
    let what = format!("weather is in the configuration: {expected}");
    harness.wait_for(&what, "vmcp-x-backends", has).await;
}

fn volume(deployment: &Deployment) -> Option<Json> {
    let volumes = deployment.spec.template.spec.as_ref()?.volumes.as_ref()?;
    let volume = volumes.iter().find(|volume| volume.name == "secrets")?;
    Some(serde_json::to_value(volume.projected.as_ref()?).unwrap())
}

// A missing or unusable value takes its backend away, and the pods stay. The value is nowhere but in its Secret.
#[requires(api_server)]
#[tokio::test]
async fn missing_secret_leaves_only_its_backend_out() {
    let harness = Harness::start("backend-secret").await;
    harness.apply_group(&["time"]).await;
    entry_with_token(&harness).await;
    harness.apply_server(json!({})).await;
    let field = "MCPServerEntry weather: spec.headers.Authorization.secretKeyRef";
    wait_for_message(
        &harness,
        "SecretNotFound",
        &format!("{field} names Secret weather, which does not exist"),
    )
    .await;
    wait_for_backend(&harness, false).await;
    let deployment: Deployment = harness.wait_for_object("vmcp-x").await;
    let item = json!({"key": "token", "path": "backends/weather/header-authorization"});
    let source = json!({"secret": {"name": "weather", "optional": true, "items": [item]}});
    let expected = json!({"defaultMode": 0o440, "sources": [source]});
    assert_eq!(volume(&deployment), Some(expected));
    let failing = |server: &VirtualMCPServer| {
        let backends = &server.status.as_ref()?.backends;
        let weather = backends.iter().find(|backend| backend.name == "weather")?;
        weather.message.as_ref()?.contains("Secret weather").then_some(())
    };
    harness.wait_for("status.backends says so", "x", failing).await;

    secret(&harness, json!({}), json!({"user": "x"})).await;
    wait_for_message(
        &harness,
        "SecretKeyNotFound",
        &format!("{field} names key token of Secret weather, which has no such key"),
    )
    .await;
    let broken = format!("{SECRET_VALUE}\nx");
    secret(&harness, json!({}), json!({"token": broken})).await;
    wait_for_message(
        &harness,
        "SecretValueInvalid",
        &format!("{field}: the value of key token of Secret weather contains a character"),
    )
    .await;
    wait_for_backend(&harness, false).await;

    secret(&harness, json!({}), json!({"token": format!("{SECRET_VALUE}\n")})).await;
    harness.wait_for_status("SecretsResolved", "True").await;
    wait_for_backend(&harness, true).await;
    let hot: ConfigMap = harness.wait_for_object("vmcp-x-backends").await;
    let text = &hot.data.as_ref().unwrap()["backends.yaml"];
    assert!(
        text.contains("file: /etc/vmcp/secrets/backends/weather/header-authorization"),
        "{text}"
    );
    let now: Deployment = harness.wait_for_object("vmcp-x").await;
    assert_eq!(
        now.metadata.generation, deployment.metadata.generation,
        "no pod is replaced"
    );

    let mut texts = vec![serde_json::to_string(&now).unwrap()];
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    texts.push(serde_json::to_string(&server).unwrap());
    let all = ListParams::default();
    for config_map in harness.api::<ConfigMap>().list(&all).await.unwrap() {
        texts.push(serde_json::to_string(&config_map).unwrap());
    }
    let events = harness.api::<k8s_openapi::api::events::v1::Event>();
    for event in events.list(&all).await.unwrap() {
        texts.push(serde_json::to_string(&event).unwrap());
    }
    assert!(texts.len() > 4);
    assert!(texts.iter().all(|text| !text.contains("canary")), "{texts:?}");

    // The same when the Secret goes.
    let secrets = harness.api::<k8s_openapi::api::core::v1::Secret>();
    secrets.delete("weather", &DeleteParams::default()).await.unwrap();
    wait_for_message(&harness, "SecretNotFound", field).await;
    wait_for_backend(&harness, false).await;
    let now: Deployment = harness.wait_for_object("vmcp-x").await;
    assert_eq!(
        now.metadata.generation, deployment.metadata.generation,
        "no pod is replaced"
    );
}

fn annotation(pod: &Pod) -> Option<String> {
    pod.annotations().get(labels::SECRETS_MAC).cloned()
}

// A changed value reaches running pods: each is annotated once, none is replaced, and nothing else is written.
#[requires(api_server)]
#[tokio::test]
async fn changed_value_nudges_each_pod_once() {
    let mut harness = Harness::start("changed-value").await;
    harness.apply_group(&["time"]).await;
    secret(&harness, json!({}), json!({"token": "one"})).await;
    entry_with_token(&harness).await;
    harness.apply_server(json!({"replicas": 2})).await;
    wait_for_backend(&harness, true).await;
    let (token, hash) = (harness.status_token().await, rendered_hash(&harness).await);
    let gateways = [
        FakeGateway::start(&token, &hash).await,
        FakeGateway::start(&token, &hash).await,
    ];
    for gateway in &gateways {
        let ready = |name: &str| json!({"name": name, "state": "ready", "tools": 1});
        gateway.report("backends", json!([ready("time"), ready("weather")]));
    }
    harness.roll_out(&[&gateways[0], &gateways[1]]).await;
    harness.wait_for_status("Ready", "True").await;
    let first = harness
        .wait_for("a new pod is annotated", &gateways[0].pod, annotation)
        .await;
    let deployment: Deployment = harness.wait_for_object("vmcp-x").await;
    harness.settle().await;

    let writes = harness.write_count();
    secret(&harness, json!({}), json!({"token": "two"})).await;
    let changed = |pod: &Pod| annotation(pod).filter(|mac| *mac != first);
    for gateway in &gateways {
        harness
            .wait_for("the pod is annotated again", &gateway.pod, changed)
            .await;
    }
    harness.settle().await;
    assert_eq!(harness.write_count(), writes + 2, "one write for each pod");
    let second = harness
        .wait_for("it is annotated", &gateways[0].pod, changed)
        .await;

    // Other changes of the Secret are no reason to write, and the first value has the first MAC.
    secret(&harness, json!({"a": "b"}), json!({"token": "two", "other": "x"})).await;
    harness.settle().await;
    assert_eq!(harness.write_count(), writes + 2);
    secret(&harness, json!({}), json!({"token": "one"})).await;
    let back = |pod: &Pod| (annotation(pod)? == first).then_some(());
    harness
        .wait_for("the first MAC is back", &gateways[0].pod, back)
        .await;
    assert_ne!(first, second);
    let now: Deployment = harness.wait_for_object("vmcp-x").await;
    assert_eq!(
        now.metadata.generation, deployment.metadata.generation,
        "no pod is replaced"
    );

    // The annotation is the record: a restarted operator does not annotate again.
    harness.settle().await;
    let versions = harness.versions().await;
    harness.stop_operator().await;
    harness.start_operator().await;
    harness.apply_server(json!({"replicas": 2})).await;
    harness.settle().await;
    assert_eq!(harness.versions().await, versions);
}

// The operator keeps no values, so it reads an unchanged Secret again when another of its keys is named.
#[requires(api_server)]
#[tokio::test]
async fn other_key_of_unchanged_secret_is_looked_at() {
    let harness = Harness::start("other-key").await;
    harness.apply_group(&["time"]).await;
    secret(
        &harness,
        json!({}),
        json!({"token": "one", "broken": "two\nlines"}),
    )
    .await;
    entry_with_token(&harness).await;
    harness.apply_server(json!({})).await;
    wait_for_backend(&harness, true).await;
    entry_with_key(&harness, "broken").await;
    let text = "the value of key broken of Secret weather contains a character";
    wait_for_message(&harness, "SecretValueInvalid", text).await;
    entry_with_key(&harness, "none").await;
    wait_for_message(&harness, "SecretKeyNotFound", "names key none of Secret weather").await;
    entry_with_token(&harness).await;
    harness.wait_for_status("SecretsResolved", "True").await;
    wait_for_backend(&harness, true).await;
}

// With a required label, a Secret without it is not even mounted.
#[requires(api_server)]
#[tokio::test]
async fn secret_without_required_label_is_not_mounted() {
    let mut harness = Harness::without_operator("backend-label").await;
    harness
        .start_operator_with(Policy {
            image_prefixes: Vec::new(),
            secret_label: Some("vmcp.dev/usable".parse().unwrap()),
        })
        .await;
    harness.apply_group(&["time"]).await;
    secret(&harness, json!({}), json!({"token": "one"})).await;
    entry_with_token(&harness).await;
    harness.apply_server(json!({})).await;
    wait_for_message(
        &harness,
        "SecretNotAllowed",
        "spec.headers.Authorization.secretKeyRef: Secret weather does not have the label vmcp.dev/usable",
    )
    .await;
    let deployment: Deployment = harness.wait_for_object("vmcp-x").await;
    assert_eq!(volume(&deployment), None);
    secret(&harness, json!({"vmcp.dev/usable": ""}), json!({"token": "one"})).await;
    harness.wait_for_status("SecretsResolved", "True").await;
    harness
        .wait_for("the Secret is mounted", "vmcp-x", |deployment: &Deployment| {
            volume(deployment)
        })
        .await;
    wait_for_backend(&harness, true).await;
}

// Trusted authorities may come from a ConfigMap, and a client certificate from a TLS Secret.
#[requires(api_server)]
#[tokio::test]
async fn authorities_and_certificate_are_mounted() {
    let harness = Harness::start("backend-tls").await;
    harness.apply_group(&["time"]).await;
    let bundle = json!({"configMapKeyRef": {"name": "authorities", "key": "ca.pem"}});
    let tls = json!({"caBundleRef": bundle, "clientCertificateRef": {"name": "weather"}});
    entry(&harness, json!({"tls": tls})).await;
    harness.apply_server(json!({})).await;
    wait_for_message(
        &harness,
        "ConfigMapNotFound",
        "spec.tls.caBundleRef.configMapKeyRef names ConfigMap authorities",
    )
    .await;
    let authorities = |text: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authorities"}, "data": {"ca.pem": text}});
    harness.apply(&authorities("no certificate")).await;
    wait_for_message(&harness, "SecretValueInvalid", "has no certificate in PEM").await;
    harness.apply(&authorities("-----BEGIN CERTIFICATE-----")).await;
    wait_for_message(
        &harness,
        "SecretNotFound",
        "spec.tls.clientCertificateRef names Secret weather",
    )
    .await;
    let pair = json!({"tls.crt": "-----BEGIN CERTIFICATE-----", "tls.key": "-----BEGIN PRIVATE KEY-----"});
    secret(&harness, json!({}), pair).await;
    wait_for_backend(&harness, true).await;
    let hot: ConfigMap = harness.wait_for_object("vmcp-x-backends").await;
    let text = &hot.data.as_ref().unwrap()["backends.yaml"];
    for file in [
        "caFile: /etc/vmcp/secrets/backends/weather/ca.crt",
        "keyFile:",
        "certFile:",
    ] {
        assert!(text.contains(file), "{text}");
    }
    harness.wait_for_status("SecretsResolved", "True").await;
}
