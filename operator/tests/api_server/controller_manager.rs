//! The operator with the real built-in controllers, which create ReplicaSets and pods. No node runs the pods.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::json;
use vmcp_cluster::ApiServer;
use vmcp_external::requires;
use vmcp_operator::desired::labels;

use crate::fake_gateway::FakeGateway;
use crate::harness::{Harness, eventually};
use crate::hot_config::rendered_hash;

/// Waits for a pod whose controller's name begins with `owner`.
async fn pod_of(harness: &Harness, owner: &str) -> Pod {
    let api = harness.api::<Pod>();
    eventually(&format!("{owner} has a pod"), async || {
        let pods = api.list(&ListParams::default()).await.unwrap();
        pods.items.into_iter().find(|pod| {
            let owners = pod.owner_references();
            owners
                .iter()
                .any(|found| found.controller == Some(true) && found.name.starts_with(owner))
        })
    })
    .await
}

// The operator sends the status token only to pods of its own ReplicaSets. A ready pod of a foreign ReplicaSet with the same labels
// does not get it.
#[requires(api_server)]
#[tokio::test]
async fn only_owned_replica_set_pods_get_the_token() {
    let server = tokio::task::spawn_blocking(ApiServer::start_with_controllers)
        .await
        .unwrap()
        .unwrap();
    let mut harness = Harness::on(&server, "controller-manager").await;
    harness.start_operator().await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({})).await;
    let token = harness.status_token().await;
    let (gateway, stranger) = (
        FakeGateway::start(&token, &rendered_hash(&harness).await).await,
        FakeGateway::start(&token, "an-old-hash").await,
    );
    let deployment: Deployment = harness.wait_for_object("vmcp-x").await;
    let mut labels = deployment.spec.template.metadata.unwrap().labels.unwrap();
    labels.insert("of".to_owned(), "stranger".to_owned());
    harness
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "stranger"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"of": "stranger"}},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "gateway", "image": "x"}]},
                },
            },
        }))
        .await;
    let (own, foreign) = (
        pod_of(&harness, "vmcp-x-").await.name_any(),
        pod_of(&harness, "stranger").await.name_any(),
    );
    harness.mark_pod_ready(&foreign, &stranger).await;
    for _ in 0..3 {
        harness.reconcile().await;
    }
    harness.mark_pod_ready(&own, &gateway).await;
    harness.wait_for_status("Ready", "True").await;
    for _ in 0..3 {
        harness.reconcile().await;
    }
    assert!(gateway.request_count() > 0);
    assert_eq!(stranger.request_count(), 0);
    let pod: Pod = harness.wait_for_object(&foreign).await;
    assert!(!pod.annotations().contains_key(labels::CONFIG_HASH), "{pod:?}");
    harness.stop_operator().await;
    tokio::task::spawn_blocking(|| drop(server)).await.unwrap();
}
