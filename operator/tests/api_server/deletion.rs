//! A virtual server that is deleted.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use vmcp_crds::condition::find;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::requires;

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
