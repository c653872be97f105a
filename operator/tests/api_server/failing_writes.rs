//! Writes that fail because the API server, or a webhook that it asks, does not work.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use vmcp_crds::condition::find;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::requires;

use crate::fake_gateway::FakeGateway;
use crate::harness::{Harness, eventually, server};
use crate::hot_config::rendered_hash;

/// Creates a webhook that the API server must ask before it writes `resource` in the namespace, and that does not answer. Waits until `write`
/// fails, because the API server asks a new webhook a moment later.
pub(crate) async fn create_webhook<T>(
    harness: &Harness,
    group: &str,
    resource: &str,
    mut write: impl AsyncFnMut() -> kube::Result<T>,
) {
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": harness.namespace},
        "webhooks": [{
            "name": "down.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://127.0.0.1:1/"}, "failurePolicy": "Fail",
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": harness.namespace}},
            "rules": [{
                "apiGroups": [group], "apiVersions": ["*"], "resources": [resource], "operations": ["*"], "scope": "*",
            }],
        }],
    });
    harness.apply_cluster(&webhook).await;
    let asked = |error: &kube::Error| error.to_string().contains("down.example.com");
    eventually("the webhook is asked", async || write().await.err().filter(asked)).await;
}

async fn remove_webhook(harness: &Harness) {
    let name = harness.namespace.clone();
    let delete = move || server().kubectl(["delete", "validatingwebhookconfiguration", &name]);
    tokio::task::spawn_blocking(delete).await.unwrap().unwrap();
}

/// A request that changes nothing.
pub(crate) fn dry_run() -> PatchParams {
    PatchParams {
        dry_run: true,
        ..PatchParams::default()
    }
}

/// Waits for a warning about the virtual server `x` with this reason, and returns its note.
pub(crate) async fn warning(harness: &Harness, reason: &str) -> String {
    let events = harness.api::<Event>();
    eventually(&format!("a warning {reason} is published"), async || {
        let list = events.list(&ListParams::default()).await.unwrap();
        let found = list.items.into_iter().find(|event| {
            event.reason.as_deref() == Some(reason) && event.type_.as_deref() == Some("Warning")
        });
        found.and_then(|event| event.note)
    })
    .await
}

/// The message of a condition of the virtual server `x`.
pub(crate) async fn message(harness: &Harness, type_: &str) -> String {
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    let conditions = server.status.unwrap().conditions;
    find(&conditions, type_).unwrap().message.clone()
}

/// A virtual server that serves.
async fn start_serving(name: &str) -> (Harness, FakeGateway) {
    let harness = Harness::start(name).await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let gateway = FakeGateway::start(&harness.status_token().await, &rendered_hash(&harness).await).await;
    harness.roll_out(&[&gateway]).await;
    harness.wait_for_condition("Ready", "True", "Serving").await;
    (harness, gateway)
}

// A webhook that does not answer makes the API server answer 500. The server does not stay `Ready=True Serving` of yesterday, and continues
// when the webhook is gone.
#[requires(api_server)]
#[tokio::test]
async fn webhook_that_is_down_is_reported() {
    let (harness, _gateway) = start_serving("webhook").await;
    let deployments = harness.api::<Deployment>();
    let change = Patch::Merge(json!({"metadata": {"annotations": {"a": "b"}}}));
    create_webhook(&harness, "apps", "deployments", async || {
        deployments.patch("vmcp-x", &dry_run(), &change).await
    })
    .await;
    harness.apply_server(json!({"image": "other:1"})).await;
    harness.wait_for_condition("Ready", "False", "ApplyFailed").await;
    harness
        .wait_for_condition("Reconciling", "True", "ApplyFailed")
        .await;
    let text = message(&harness, "Ready").await;
    assert!(
        text.contains("cannot apply Deployment")
            && text.contains("down.example.com")
            && text.contains("tries again within 30 seconds"),
        "{text}"
    );
    assert_eq!(warning(&harness, "ApplyFailed").await, text);

    remove_webhook(&harness).await;
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;
}

// If the status itself cannot be written, an Event says so.
#[requires(api_server)]
#[tokio::test]
async fn status_that_cannot_be_written_is_an_event() {
    let (harness, gateway) = start_serving("status-webhook").await;
    let servers = harness.api::<VirtualMCPServer>();
    let change = Patch::Merge(json!({"status": {"toolCount": 99}}));
    create_webhook(&harness, "vmcp.dev", "virtualmcpservers/status", async || {
        servers.patch_status("x", &dry_run(), &change).await
    })
    .await;
    gateway.report("hotConfigHash", json!("an-old-hash"));
    harness.reconcile().await;
    let note = warning(&harness, "StatusWriteFailed").await;
    assert!(
        note.contains("the conditions may be out of date") && note.contains("down.example.com"),
        "{note}"
    );
    remove_webhook(&harness).await;
    harness
        .wait_for_condition("Ready", "False", "ConfigPending")
        .await;
}

// A policy that refuses an object from the start is an Event, and a text that is too long for one is cut.
#[requires(api_server)]
#[tokio::test]
async fn refusal_from_the_start_is_an_event() {
    let mut harness = Harness::without_operator("policy-refusal").await;
    let reason = format!("no services here: {}", "ä".repeat(900));
    harness
        .apply_cluster(&json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": harness.namespace},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["services"],
                }]},
                "validations": [{"expression": "false", "message": reason}],
            },
        }))
        .await;
    harness
        .apply_cluster(&json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": harness.namespace},
            "spec": {
                "policyName": harness.namespace, "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {
                    "matchLabels": {"kubernetes.io/metadata.name": harness.namespace},
                }},
            },
        }))
        .await;
    let services = harness.api::<Service>();
    let service = json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}});
    let service: Service = serde_json::from_value(service).unwrap();
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    eventually("the policy applies", async || {
        services.create(&dry_run, &service).await.err()
    })
    .await;
    harness.start_operator().await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness.wait_for_condition("Ready", "False", "ApplyRefused").await;
    let note = warning(&harness, "ApplyRefused").await;
    assert!(
        note.contains("no services here") && note.len() > 1000 && note.ends_with("..."),
        "{note}"
    );
}
