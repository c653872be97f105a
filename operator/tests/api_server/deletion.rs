//! A virtual server that is deleted, and what it leaves.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use vmcp_crds::condition::find;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::requires;
use vmcp_operator::owner::is_controlled_by;

use crate::harness::{Harness, eventually};

/// The message of the condition `Ready` of the virtual server `x`.
async fn ready_message(harness: &Harness) -> String {
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    let conditions = server.status.unwrap().conditions;
    find(&conditions, "Ready").unwrap().message.clone()
}

async fn set_finalizers(harness: &Harness, finalizers: serde_json::Value) {
    let servers = harness.api::<VirtualMCPServer>();
    let change = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    servers
        .patch("x", &PatchParams::default(), &change)
        .await
        .unwrap();
}

// A finalizer of another controller keeps a deleted virtual server. The status says so, and names the finalizer.
#[requires(api_server)]
#[tokio::test]
async fn foreign_finalizer_is_named_while_terminating() {
    let harness = Harness::start("terminating").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    set_finalizers(&harness, json!(["example.com/backup"])).await;
    let servers = harness.api::<VirtualMCPServer>();
    servers.delete("x", &DeleteParams::default()).await.unwrap();
    harness.wait_for_condition("Ready", "False", "Terminating").await;
    harness
        .wait_for_condition("Reconciling", "True", "Terminating")
        .await;
    let message = ready_message(&harness).await;
    assert!(message.contains("example.com/backup"), "{message}");
    set_finalizers(&harness, json!(null)).await;
    eventually("it is gone", async || {
        servers.get_opt("x").await.unwrap().is_none().then_some(())
    })
    .await;
}

// The message about objects of a virtual server that was deleted with `--cascade=orphan` says how a new one takes them over. Pods are not replaced.
#[requires(api_server)]
#[tokio::test]
async fn orphaned_children_are_adopted_on_request() {
    let harness = Harness::start("orphans").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let before: Deployment = harness.wait_for_object("vmcp-x").await;
    let servers = harness.api::<VirtualMCPServer>();
    servers.delete("x", &DeleteParams::default()).await.unwrap();
    eventually("it is gone", async || {
        servers.get_opt("x").await.unwrap().is_none().then_some(())
    })
    .await;
    // Stands in for the garbage collector.
    let kinds = "configmaps,serviceaccounts,services,deployments,secrets";
    let namespace = harness.namespace.clone();
    let orphan = move || {
        let patch = r#"{"metadata":{"ownerReferences":null}}"#;
        let server = crate::harness::server();
        let named = ["get", kinds, "-n", &namespace, "-o", "name"];
        for name in server.kubectl(named).unwrap().lines() {
            let arguments = ["patch", name, "-n", &namespace, "--type=merge", "-p", patch];
            server.kubectl(arguments).unwrap();
        }
    };
    tokio::task::spawn_blocking(orphan).await.unwrap();

    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("Ready", "False", "ChildNotOwned")
        .await;
    let message = ready_message(&harness).await;
    assert!(message.contains("vmcp.dev/adopt-orphans=true"), "{message}");
    let adopt = Patch::Merge(json!({"metadata": {"annotations": {"vmcp.dev/adopt-orphans": "true"}}}));
    servers.patch("x", &PatchParams::default(), &adopt).await.unwrap();
    harness
        .wait_for_condition("Reconciling", "True", "DeploymentProgressing")
        .await;
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    let after: Deployment = harness.wait_for_object("vmcp-x").await;
    assert!(is_controlled_by(&after, &server));
    assert!(is_controlled_by(
        &harness.wait_for_object::<Service>("vmcp-x").await,
        &server
    ));
    assert_eq!(
        (before.uid(), before.spec.template),
        (after.uid(), after.spec.template)
    );
}
