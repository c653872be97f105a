//! Selection of the pods that are gateways.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::requires;
use vmcp_operator::desired::labels;

use crate::fake_gateway::FakeGateway;
use crate::harness::Harness;
use crate::hot_config::rendered_hash;

// Anyone who can create a pod can set our labels. Such a pod does not get the token, and the operator does not write to it.
#[requires(api_server)]
#[tokio::test]
async fn pod_of_another_owner_does_not_get_the_token() {
    let harness = Harness::start("owned-pods").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({})).await;
    let token = harness.status_token().await;
    let (gateway, stranger) = (
        FakeGateway::start(&token, &rendered_hash(&harness).await).await,
        FakeGateway::start(&token, "an-old-hash").await,
    );
    for kind in ["ReplicaSet", "Job"] {
        harness
            .apply_pod(&stranger, kind, "00000000-0000-4000-8000-000000000000")
            .await;
        harness.reconcile().await;
    }
    harness.roll_out(&[&gateway]).await;
    harness.wait_for_status("Ready", "True").await;
    for _ in 0..3 {
        harness.reconcile().await;
    }
    assert!(gateway.request_count() > 0);
    assert_eq!(stranger.request_count(), 0);
    let pod: Pod = harness.wait_for_object(&stranger.pod).await;
    assert!(!pod.annotations().contains_key(labels::CONFIG_HASH), "{pod:?}");
}

// A pod that is terminating is no longer asked, nudged or counted: the other one decides.
#[requires(api_server)]
#[tokio::test]
async fn terminating_pod_does_not_count() {
    let harness = Harness::start("terminating-pod").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({"replicas": 2})).await;
    let (token, hash) = (harness.status_token().await, rendered_hash(&harness).await);
    let (stays, goes) = (
        FakeGateway::start(&token, &hash).await,
        FakeGateway::start(&token, &hash).await,
    );
    for gateway in [&stays, &goes] {
        gateway.report(
            "backends",
            json!([{"name": "time", "state": "ready", "tools": 1}]),
        );
    }
    harness.roll_out(&[&stays, &goes]).await;
    harness.wait_for_status("Ready", "True").await;

    let pods = harness.api::<Pod>();
    // Nothing kills its processes here; a finalizer keeps the object.
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    pods.patch(&goes.pod, &PatchParams::default(), &Patch::Merge(&hold))
        .await
        .unwrap();
    pods.delete(&goes.pod, &DeleteParams::default()).await.unwrap();
    // By the second reconcile the operator has seen the deletion.
    harness.reconcile().await;
    goes.report("hotConfigHash", json!("an-old-hash"));
    harness.reconcile().await;
    let requests = goes.request_count();
    let is_ready = |server: &VirtualMCPServer| !crate::harness::is_not_ready(server);
    harness.assert_stays("it is ready", "x", is_ready).await;
    assert_eq!(goes.request_count(), requests);
    let pod: Pod = harness.wait_for_object(&goes.pod).await;
    assert!(!pod.annotations().contains_key(labels::CONFIG_HASH), "{pod:?}");
    pods.patch(
        &goes.pod,
        &PatchParams::default(),
        &Patch::Merge(&json!({"metadata": {"finalizers": null}})),
    )
    .await
    .unwrap();
}
