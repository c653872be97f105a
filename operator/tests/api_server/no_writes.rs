//! A reconcile with nothing to do writes nothing.

use kube::api::{Patch, PatchParams};
use serde_json::json;
use vmcp_crds::condition::find;
use vmcp_crds::v1alpha1::{MCPGroup, VirtualMCPServer};
use vmcp_external::requires;

use crate::fake_gateway::FakeGateway;
use crate::harness::Harness;
use crate::hot_config::rendered_hash;

/// Adds conditions of another writer.
async fn add_foreign_conditions(harness: &Harness) {
    let condition = json!({
        "type": "example.com/Scanned", "status": "True", "reason": "Scanned", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let change = Patch::Apply(json!({
        "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "status": {"conditions": [condition]},
    }));
    let scanner = PatchParams::apply("scanner");
    let servers = harness.api::<VirtualMCPServer>();
    servers.patch_status("x", &scanner, &change).await.unwrap();
    let change = Patch::Apply(json!({
        "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPGroup", "status": {"conditions": [condition]},
    }));
    let groups = harness.api::<MCPGroup>();
    groups.patch_status("group", &scanner, &change).await.unwrap();
}

// A reconcile of an up-to-date server sends no writes, and those of a restarted operator change nothing.
#[requires(api_server)]
#[tokio::test]
async fn reconcile_without_changes_writes_nothing() {
    let mut harness = Harness::start("quiet").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({"replicas": 2})).await;
    let (token, hash) = (harness.status_token().await, rendered_hash(&harness).await);
    let gateways = [
        FakeGateway::start(&token, &hash).await,
        FakeGateway::start(&token, &hash).await,
    ];
    for gateway in &gateways {
        gateway.report(
            "backends",
            json!([{"name": "time", "state": "ready", "tools": 1}]),
        );
    }
    harness.roll_out(&[&gateways[0], &gateways[1]]).await;
    harness.wait_for_status("Ready", "True").await;
    harness.settle().await;
    add_foreign_conditions(&harness).await;

    let (writes, versions) = (harness.write_count(), harness.versions().await);
    for _ in 0..5 {
        harness.reconcile().await;
    }
    assert_eq!(harness.write_count(), writes, "requests that write");
    assert_eq!(harness.versions().await, versions, "objects that changed");

    // A restarted operator applies everything once, which must not change any object.
    harness.stop_operator().await;
    harness.start_operator().await;
    harness.apply_server(json!({"replicas": 2})).await;
    harness.settle().await;
    assert_eq!(
        harness.versions().await,
        versions,
        "objects that changed because the operator restarted"
    );
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    let status = server.status.unwrap();
    assert_eq!(status.observed_generation, server.metadata.generation);
    assert!(find(&status.conditions, "example.com/Scanned").is_some());
}
