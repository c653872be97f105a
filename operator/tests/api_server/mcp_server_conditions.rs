//! What the conditions of a server say.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value as Json, json};
use vmcp_crds::v1alpha1::{MCPServer, ServerPhase};
use vmcp_external::requires;
use vmcp_operator::policy::Policy;

use crate::fake_gateway::FakeGateway;
use crate::harness::{Harness, message_of};

fn npm() -> Json {
    json!({"npm": {"package": "weather"}})
}

async fn with_npm(name: &str, fields: Json) -> Harness {
    let harness = Harness::start(name).await;
    let mut spec = npm();
    spec.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    harness.apply_mcp_server("weather", spec).await;
    harness
}

fn waiting(reason: &str, message: &str) -> Json {
    json!({"phase": "Pending", "containerStatuses": [{
        "name": "mcp", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}},
    }]})
}

// An image that cannot be pulled, and an image without a program: the condition quotes the kubelet and names the field to set.
#[requires(api_server)]
#[tokio::test]
async fn container_that_cannot_start_names_the_field() {
    let harness = with_npm("server-start", json!({})).await;
    let pod = harness.start_server_pod("weather").await;
    for (reason, words, field) in [
        ("ErrImagePull", "pull access denied", "spec.imagePullSecrets"),
        ("CreateContainerError", "no command specified", "spec.command"),
        (
            "RunContainerError",
            "exec: \"weather\": executable file not found in $PATH: unknown",
            "spec.command",
        ),
    ] {
        harness.set_server_pod(&pod, &waiting(reason, words)).await;
        let says = |server: &MCPServer| {
            let ready = vmcp_crds::condition::find(&server.status.as_ref()?.conditions, "Ready")?;
            (ready.message.contains(words) && ready.message.contains(field)).then_some(())
        };
        harness
            .wait_for(&format!("{reason} leads to {field}"), "weather", says)
            .await;
    }
    let server = harness
        .wait_for_server_condition("weather", "Ready", "False", "PodNotRunning")
        .await;
    assert_eq!(server.status.unwrap().phase, Some(ServerPhase::Failed));
    harness
        .wait_for_server_condition("weather", "Reconciling", "True", "PodNotRunning")
        .await;
    harness.wait_for_event("Warning", "PodNotRunning").await;
}

// A container that ends again and again: the condition, the number of restarts and the last exit say so.
#[requires(api_server)]
#[tokio::test]
async fn crashing_server_reports_restarts_and_last_exit() {
    let harness = with_npm("server-crash", json!({})).await;
    let pod = harness.start_server_pod("weather").await;
    let terminated = json!({
        "exitCode": 137, "reason": "OOMKilled", "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:09Z",
    });
    let crashed = json!({"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}], "containerStatuses": [{
        "name": "mcp", "image": "x", "imageID": "", "ready": false, "restartCount": 4,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": terminated},
    }]});
    harness.set_server_pod(&pod, &crashed).await;
    let server = harness
        .wait_for_server_condition("weather", "Ready", "False", "PodNotRunning")
        .await;
    let message = message_of(&server, "Ready");
    assert!(
        message.contains("ended with exit code 137 (OOMKilled)"),
        "{message}"
    );
    let status = serde_json::to_value(server.status.unwrap()).unwrap();
    assert_eq!(status["restarts"], 4);
    assert_eq!(
        status["lastExit"],
        json!({"pod": pod, "exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:00:09Z"})
    );
}

// A server that does not answer `initialize`: the condition repeats what the bridge says.
#[requires(api_server)]
#[tokio::test]
async fn failed_initialize_is_reported_in_words() {
    let harness = with_npm("server-initialize", json!({})).await;
    let bridge = FakeGateway::start("", "unused").await;
    bridge.report("backends", json!([{"name": "weather", "state": "failing", "tools": 0, "error": "it ended with exit code 1: no API key"}]));
    let pod = harness.start_server_pod("weather").await;
    let running = json!({
        "phase": "Running", "podIP": bridge.address, "podIPs": [{"ip": bridge.address}],
        "conditions": [{"type": "Ready", "status": "False"}],
    });
    harness.set_server_pod(&pod, &running).await;
    let server = harness
        .wait_for_server_condition("weather", "Ready", "False", "InitializeFailed")
        .await;
    let message = message_of(&server, "Ready");
    assert!(
        message.contains("it ended with exit code 1: no API key")
            && message.contains("kubectl logs mcp-weather-0"),
        "{message}"
    );
    assert_eq!(server.status.unwrap().phase, Some(ServerPhase::Failed));
}

#[requires(api_server)]
#[tokio::test]
async fn rollout_of_server_that_cannot_go_on_is_stalled() {
    let harness = with_npm("server-stalled", json!({})).await;
    harness.start_server_pod("weather").await;
    let deadline = json!({"status": {"conditions": [{
        "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out",
    }]}});
    let deployments = harness.api::<Deployment>();
    deployments
        .patch_status("mcp-weather", &PatchParams::default(), &Patch::Merge(&deadline))
        .await
        .unwrap();
    harness
        .wait_for_server_condition("weather", "Stalled", "True", "ProgressDeadlineExceeded")
        .await;
    let done = json!({"status": {"conditions": []}, "spec": {"paused": true}});
    deployments
        .patch_status("mcp-weather", &PatchParams::default(), &Patch::Merge(&done))
        .await
        .unwrap();
    deployments
        .patch("mcp-weather", &PatchParams::default(), &Patch::Merge(&done))
        .await
        .unwrap();
    harness.start_server_pod("weather").await;
    harness
        .wait_for_server_condition("weather", "Stalled", "True", "DeploymentPaused")
        .await;
}

// A template that would break the pods is refused with the field, and the pods stay as they are.
#[requires(api_server)]
#[tokio::test]
async fn refused_template_of_server_keeps_deployment() {
    let harness = with_npm("server-template", json!({})).await;
    let before: Deployment = harness.wait_for_object("mcp-weather").await;
    let mut spec = npm();
    spec["args"] = json!(["--new"]);
    spec["podTemplate"] = json!({"spec": {"hostNetwork": true}});
    harness.apply_mcp_server("weather", spec).await;
    let server = harness
        .wait_for_server_condition("weather", "ConfigValid", "False", "PodTemplateInvalid")
        .await;
    assert!(message_of(&server, "ConfigValid").starts_with("spec.podTemplate.spec.hostNetwork: "));
    harness
        .wait_for_server_condition("weather", "Stalled", "True", "PodTemplateInvalid")
        .await;
    let after: Deployment = harness.wait_for_object("mcp-weather").await;
    assert_eq!(after.metadata.generation, before.metadata.generation);
}

// An object of the same name that belongs to others is left alone.
#[requires(api_server)]
#[tokio::test]
async fn foreign_service_of_server_is_left_alone() {
    let harness = Harness::start("server-foreign").await;
    harness
        .apply(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "mcp-weather"}, "spec": {"ports": [{"port": 80}]},
        }))
        .await;
    harness.apply_mcp_server("weather", npm()).await;
    let server = harness
        .wait_for_server_condition("weather", "Ready", "False", "ChildNotOwned")
        .await;
    let message = message_of(&server, "Ready");
    assert!(
        message.contains("does not belong to this MCPServer")
            && message.contains("create this MCPServer under another name"),
        "{message}"
    );
    harness
        .api::<k8s_openapi::api::core::v1::Service>()
        .delete("mcp-weather", &DeleteParams::default())
        .await
        .unwrap();
    harness
        .wait_for_server_condition("weather", "Ready", "False", "DeploymentProgressing")
        .await;
}

// What the API server refuses is quoted, with the field that sets it.
#[requires(api_server)]
#[tokio::test]
async fn refused_deployment_of_server_is_quoted() {
    let harness = with_npm(
        "server-refused",
        json!({"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}}),
    )
    .await;
    let server = harness
        .wait_for_server_condition("weather", "Ready", "False", "ApplyRefused")
        .await;
    let message = message_of(&server, "Ready");
    assert!(
        message.contains("spec.resources sets the requests and limits"),
        "{message}"
    );
}

// The administrator's policy holds for the image, the template and the Secrets that the server gets.
#[requires(api_server)]
#[tokio::test]
async fn policy_holds_for_servers() {
    let mut harness = Harness::without_operator("server-policy").await;
    harness
        .start_operator_with(Policy {
            image_prefixes: vec!["registry.example/team".to_owned()],
            secret_label: Some("usable".parse().unwrap()),
        })
        .await;
    harness
        .apply_mcp_server("weather", json!({"image": "evil", "command": ["x"]}))
        .await;
    harness
        .wait_for_server_condition("weather", "ConfigValid", "False", "ImageNotAllowed")
        .await;
    let image = "registry.example/team/weather";
    let of_secret = |fields: Json| {
        let mut spec = json!({"image": image, "command": ["x"]});
        spec.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        spec
    };
    let env = json!({"env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "weather", "key": "token"}}}]});
    harness.apply_mcp_server("weather", of_secret(env)).await;
    harness
        .wait_for_server_condition("weather", "ConfigValid", "False", "SecretNotFound")
        .await;
    let secret = |labels: Json| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "weather", "labels": labels}, "stringData": {"token": "t"},
        })
    };
    harness.apply(&secret(json!({}))).await;
    harness
        .wait_for_server_condition("weather", "ConfigValid", "False", "SecretNotAllowed")
        .await;
    assert!(
        harness
            .api::<Deployment>()
            .get_opt("mcp-weather")
            .await
            .unwrap()
            .is_none()
    );
    let from = json!({"envFrom": [{"secretRef": {"name": "weather"}}]});
    harness.apply_mcp_server("weather", of_secret(from)).await;
    let server = harness
        .wait_for_server_condition("weather", "ConfigValid", "False", "SecretNotAllowed")
        .await;
    assert!(message_of(&server, "ConfigValid").starts_with("spec.envFrom: Secret weather"));
    harness.apply(&secret(json!({"usable": "true"}))).await;
    harness.wait_for_object::<Deployment>("mcp-weather").await;
    // The operator's own images need no prefix.
    harness.apply_mcp_server("files", npm()).await;
    harness.wait_for_object::<Deployment>("mcp-files").await;
}

// A server that others keep with a finalizer says so.
#[requires(api_server)]
#[tokio::test]
async fn finalizer_of_others_keeps_server_terminating() {
    let harness = with_npm("server-finalizer", json!({})).await;
    harness
        .wait_for_server_condition("weather", "Ready", "False", "DeploymentProgressing")
        .await;
    let servers = harness.api::<MCPServer>();
    let finalizers = |names: Json| json!({"metadata": {"finalizers": names}});
    let patch = finalizers(json!(["example.com/keep"]));
    servers
        .patch("weather", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    servers.delete("weather", &DeleteParams::default()).await.unwrap();
    let server = harness
        .wait_for_server_condition("weather", "Ready", "False", "Terminating")
        .await;
    assert!(message_of(&server, "Ready").contains("example.com/keep"));
    assert_eq!(server.status.unwrap().phase, Some(ServerPhase::Terminating));
    let patch = finalizers(json!([]));
    servers
        .patch("weather", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
}
