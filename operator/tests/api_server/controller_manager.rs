//! The operator with the real built-in controllers, which create ReplicaSets and pods. No node runs the pods.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{LimitRange, Pod, ResourceQuota};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use vmcp_cluster::ApiServer;
use vmcp_crds::condition::find;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::requires;
use vmcp_operator::desired::labels;

use crate::fake_gateway::FakeGateway;
use crate::harness::{Harness, eventually};
use crate::hot_config::rendered_hash;

/// Time in which pods must be created after the cause of a failure is gone.
const RECOVERY_TIME: Duration = Duration::from_secs(30);

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

/// The message of the condition `Ready` of the virtual server `x`.
async fn ready_message(harness: &Harness) -> String {
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    let conditions = server.status.unwrap().conditions;
    find(&conditions, "Ready").unwrap().message.clone()
}

// Pods that cannot be created, a pod that cannot start, and a paused rollout are reported at once, each with the object to look at.
#[requires(api_server)]
#[tokio::test]
async fn rollout_that_cannot_continue_says_why() {
    let server = tokio::task::spawn_blocking(ApiServer::start_with_controllers)
        .await
        .unwrap()
        .unwrap();
    let mut harness = Harness::on(&server, "rollout").await;
    let limits = json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"},
        "spec": {"limits": [{"type": "Container", "max": {"memory": "1Mi"}}]},
    });
    harness.apply(&limits).await;
    harness.start_operator().await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("Ready", "False", "PodCreationFailed")
        .await;
    let message = ready_message(&harness).await;
    assert!(
        message.contains("maximum memory usage per Container is 1Mi")
            && message.contains("spec.resources sets")
            && message.contains("`kubectl describe replicaset vmcp-x-"),
        "{message}"
    );
    let ranges = harness.api::<LimitRange>();
    ranges.delete("small", &DeleteParams::default()).await.unwrap();
    let lifted = Instant::now();
    let pod = pod_of(&harness, "vmcp-x-").await.name_any();
    assert!(lifted.elapsed() <= RECOVERY_TIME, "{:?}", lifted.elapsed());
    harness
        .apply_status(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod},
            "status": {"containerStatuses": [{
                "name": "gateway", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}},
            }]},
        }))
        .await;
    harness
        .wait_for_condition("Ready", "False", "PodNotRunning")
        .await;
    let message = ready_message(&harness).await;
    assert_eq!(
        message,
        format!(
            "pod {pod}: container gateway: ErrImagePull: no such image; look at `kubectl describe pod {pod}`"
        )
    );
    let events = harness.api::<Event>();
    eventually("an Event says it", async || {
        let list = events.list(&ListParams::default()).await.unwrap();
        let says = |event: &Event| event.note.as_deref() == Some(&message);
        list.items.iter().any(says).then_some(())
    })
    .await;

    harness
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "vmcp-x"}, "spec": {"paused": true},
        }))
        .await;
    harness
        .wait_for_condition("Stalled", "True", "DeploymentPaused")
        .await;
    harness.stop_operator().await;
    tokio::task::spawn_blocking(|| drop(server)).await.unwrap();
}

// A quota without pods is reported with its name. Pods are created soon after it is lifted, also when it held for so long that the controller of
// ReplicaSets would wait for longer.
#[requires(api_server)]
#[tokio::test]
async fn pods_are_created_soon_after_quota_is_lifted() {
    let server = tokio::task::spawn_blocking(ApiServer::start_with_controllers)
        .await
        .unwrap()
        .unwrap();
    let mut harness = Harness::on(&server, "pod-quota").await;
    harness
        .apply(&json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-pods"}, "spec": {"hard": {"pods": "0"}},
        }))
        .await;
    let is_enforced = |quota: &ResourceQuota| quota.status.as_ref()?.hard.as_ref().map(drop);
    harness
        .wait_for("the quota is enforced", "no-pods", is_enforced)
        .await;
    harness.start_operator().await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("Ready", "False", "PodCreationFailed")
        .await;
    let message = ready_message(&harness).await;
    assert!(
        message.contains("exceeded quota: no-pods")
            && message.contains("Kubernetes tries again within 30 seconds")
            && message.contains("`kubectl describe replicaset vmcp-x-"),
        "{message}"
    );
    // The controller has tried after 41 seconds, and would try again after 82 seconds.
    tokio::time::sleep(Duration::from_secs(45)).await;
    let quotas = harness.api::<ResourceQuota>();
    quotas.delete("no-pods", &DeleteParams::default()).await.unwrap();
    let lifted = Instant::now();
    pod_of(&harness, "vmcp-x-").await;
    assert!(lifted.elapsed() <= RECOVERY_TIME, "{:?}", lifted.elapsed());
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;
    harness.stop_operator().await;
    tokio::task::spawn_blocking(|| drop(server)).await.unwrap();
}
