//! `helm install --wait`, and other tools that follow kstatus, wait until a virtual server is ready.

use std::process::{Command, Output};

use serde_json::{Value as Json, json};
use vmcp_crds::v1alpha1::{MCPGroup, VirtualMCPServer};
use vmcp_external::requires;

use crate::harness::{Harness, server};

/// Runs `helm install --wait` for a chart that contains `object`.
async fn install(harness: &Harness, object: &Json, timeout: &str) -> Output {
    let chart = tempfile::tempdir().unwrap();
    std::fs::create_dir(chart.path().join("templates")).unwrap();
    let about = json!({"apiVersion": "v2", "name": "one-object", "version": "1.0.0"});
    std::fs::write(chart.path().join("Chart.yaml"), about.to_string()).unwrap();
    std::fs::write(chart.path().join("templates/object.yaml"), object.to_string()).unwrap();
    let namespace = harness.namespace.clone();
    let timeout = timeout.to_owned();
    let run = move || {
        Command::new(vmcp_cluster::helm().unwrap())
            .args(["install", "one-object", ".", "--wait", "--timeout", &timeout])
            .args(["--namespace", &namespace])
            .current_dir(chart.path())
            .env("KUBECONFIG", server().kubeconfig())
            .output()
            .unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn virtual_server(spec: &Json) -> Json {
    json!({"apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "metadata": {"name": "x"}, "spec": spec})
}

// An object that no operator has seen yet is not ready.
#[requires(api_server, helm)]
#[tokio::test]
async fn helm_waits_for_object_without_status() {
    let harness = Harness::without_operator("helm-new").await;
    let object = virtual_server(&json!({"groupRef": {"name": "group"}}));
    let output = install(&harness, &object, "5s").await;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "helm did not wait: {text}");
    assert!(text.contains("VirtualMCPServer"), "{text}");
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    assert_eq!(server.status.unwrap().observed_generation, Some(-1));

    harness.apply_group(&[]).await;
    let group: MCPGroup = harness.wait_for_object("group").await;
    assert_eq!(group.status.unwrap().observed_generation, Some(-1));
}

// A virtual server with `replicas: 0` is as its spec says, so there is nothing to wait for.
#[requires(api_server, helm)]
#[tokio::test]
async fn helm_does_not_wait_for_pods_of_zero_replicas() {
    let harness = Harness::start("helm-zero").await;
    harness.apply_group(&[]).await;
    let object = virtual_server(&json!({"groupRef": {"name": "group"}, "replicas": 0}));
    let (output, ()) = tokio::join!(install(&harness, &object, "60s"), harness.observe_deployment(0));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    let ready = vmcp_crds::condition::find(&server.status.as_ref().unwrap().conditions, "Ready").unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("True", "ScaledToZero")
    );
}
