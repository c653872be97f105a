//! Ownership of the replica count.

use futures::TryStreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::json;
use vmcp_crds::condition::find;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::requires;

use crate::harness::{Harness, server};

fn has(count: i32) -> impl Fn(&Deployment) -> Option<()> {
    move |deployment| (deployment.spec.replicas == Some(count)).then_some(())
}

#[requires(api_server)]
#[tokio::test]
async fn unsetting_replicas_keeps_current_count() {
    let harness = Harness::start("unset").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({"replicas": 3})).await;
    harness.wait_for("there are three", "vmcp-x", has(3)).await;

    harness.apply_server(json!({})).await;
    let handed_over = |deployment: &Deployment| {
        let fields = deployment.metadata.managed_fields.as_ref()?;
        let ours = |manager: &str| {
            fields.iter().any(|entry| {
                entry.manager.as_deref() == Some(manager)
                    && entry
                        .fields_v1
                        .as_ref()
                        .is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
            })
        };
        (!ours("vmcp-operator") && ours("vmcp-operator-replicas")).then_some(deployment.spec.replicas)
    };
    let count = harness
        .wait_for("the count is no longer the operator's", "vmcp-x", handed_over)
        .await;
    assert_eq!(count, Some(3));

    // Stands in for an autoscaler.
    scale(&harness, 5).await;
    harness.apply_server(json!({"sessionAffinity": "ClientIP"})).await;
    let sticky = |service: &Service| {
        (service.spec.as_ref()?.session_affinity.as_deref() == Some("ClientIP")).then_some(())
    };
    harness.wait_for("the change is applied", "vmcp-x", sticky).await;
    harness
        .assert_stays(
            "the count is the autoscaler's",
            "vmcp-x",
            |deployment: &Deployment| deployment.spec.replicas == Some(5),
        )
        .await;

    harness.apply_server(json!({"replicas": 2})).await;
    harness
        .wait_for("the spec sets the count again", "vmcp-x", has(2))
        .await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for("the count is handed over again", "vmcp-x", handed_over)
        .await;
    harness.wait_for("the count is unchanged", "vmcp-x", has(2)).await;
}

#[requires(api_server)]
#[tokio::test]
async fn server_without_replicas_never_sets_count() {
    let harness = Harness::start("hands-off").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness.wait_for("the default is one", "vmcp-x", has(1)).await;
    scale(&harness, 4).await;
    harness.apply_server(json!({"image": "other:1"})).await;
    let rolled = |deployment: &Deployment| {
        let image = deployment.spec.template.spec.as_ref()?.containers[0]
            .image
            .as_deref();
        (image == Some("other:1")).then_some(deployment.spec.replicas)
    };
    assert_eq!(
        harness.wait_for("the image is applied", "vmcp-x", rolled).await,
        Some(4)
    );
}

#[requires(api_server)]
#[tokio::test]
async fn scaling_server_scales_deployment() {
    let harness = Harness::start("scale").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness.wait_for("the default is one", "vmcp-x", has(1)).await;
    let three = json!({"spec": {"replicas": 3}});
    let servers = harness.api::<VirtualMCPServer>();
    servers
        .patch_scale("x", &PatchParams::default(), &Patch::Merge(&three))
        .await
        .unwrap();
    harness.wait_for("there are three", "vmcp-x", has(3)).await;
    harness.observe_deployment(3).await;
    let reported = |server: &VirtualMCPServer| {
        let status = server.status.as_ref()?;
        (status.replicas == Some(3)).then(|| status.selector.clone())
    };
    let selector = harness
        .wait_for("the status reports the count", "x", reported)
        .await;
    assert!(selector.unwrap().contains("app.kubernetes.io/instance=x"));
}

#[requires(api_server)]
#[tokio::test]
async fn memory_with_replicas_or_autoscaler_gives_warning() {
    let harness = Harness::start("warning").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({"replicas": 2})).await;
    harness
        .wait_for_condition(
            "SessionStorageWarning",
            "True",
            "SessionStorageMissingForReplicas",
        )
        .await;
    harness.apply_server(json!({"replicas": 1})).await;
    harness.wait_for_status("SessionStorageWarning", "False").await;
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {
            "maxReplicas": 5,
            "scaleTargetRef": {"apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "name": "x"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
        },
    });
    harness.apply(&autoscaler).await;
    harness.wait_for_status("SessionStorageWarning", "True").await;
    harness
        .apply_server(
            json!({"replicas": 1, "sessionStorage": {"provider": "redis", "address": "redis:6379"}}),
        )
        .await;
    harness
        .wait_for_condition("SessionStorageWarning", "False", "SessionStorageConfigured")
        .await;
}

// An autoscaler on the Deployment and `spec.replicas` do not undo each other's count: the autoscaler decides, and a condition and an Event name it. It
// neither leaves nor changes a count of zero, so `spec.replicas` reaches it, and leaves one that it has set.
#[requires(api_server)]
#[tokio::test]
async fn autoscaler_on_deployment_overrides_replicas() {
    let harness = Harness::start("two-counts").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({"replicas": 2})).await;
    harness.wait_for("there are two", "vmcp-x", has(2)).await;
    apply_autoscaler(&harness).await;
    let ignored = || harness.wait_for_condition("ReplicasIgnored", "True", "AutoscalerTargetsDeployment");
    ignored().await;
    harness
        .wait_for_event("Warning", "AutoscalerTargetsDeployment")
        .await;
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    let conditions = server.status.unwrap().conditions;
    let message = &find(&conditions, "ReplicasIgnored").unwrap().message;
    assert!(
        message.contains("HorizontalPodAutoscaler theirs scales Deployment vmcp-x"),
        "{message}"
    );
    scale(&harness, 5).await;
    harness.apply_server(json!({"replicas": 3})).await;
    harness
        .assert_stays(
            "the count is the autoscaler's",
            "vmcp-x",
            |deployment: &Deployment| deployment.spec.replicas == Some(5),
        )
        .await;

    harness.apply_server(json!({"replicas": 0})).await;
    harness.wait_for("there are none", "vmcp-x", has(0)).await;
    harness.apply_server(json!({"replicas": 2})).await;
    harness.wait_for("there are two again", "vmcp-x", has(2)).await;
    ignored().await;

    scale(&harness, 4).await;
    harness
        .api::<HorizontalPodAutoscaler>()
        .delete("theirs", &DeleteParams::default())
        .await
        .unwrap();
    harness.wait_for("the spec decides", "vmcp-x", has(2)).await;
    let is_gone = |server: &VirtualMCPServer| {
        let conditions = &server.status.as_ref()?.conditions;
        find(conditions, "ReplicasIgnored").is_none().then_some(())
    };
    harness.wait_for("the condition is gone", "x", is_gone).await;
}

// A zero that another client sets beside an autoscaler, as KEDA does, stays, and the conditions say what it means. Without an autoscaler the spec decides.
#[requires(api_server)]
#[tokio::test]
async fn zero_of_others_beside_autoscaler_stays() {
    let harness = Harness::start("foreign-zero").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({"replicas": 2})).await;
    harness.wait_for("there are two", "vmcp-x", has(2)).await;
    scale(&harness, 0).await;
    harness.wait_for("the spec decides", "vmcp-x", has(2)).await;

    apply_autoscaler(&harness).await;
    let ignored = || harness.wait_for_condition("ReplicasIgnored", "True", "AutoscalerTargetsDeployment");
    ignored().await;
    harness.settle().await;
    scale(&harness, 0).await;
    harness
        .assert_stays("the count is zero", "vmcp-x", |deployment: &Deployment| {
            deployment.spec.replicas == Some(0)
        })
        .await;
    harness.observe_deployment(0).await;
    harness.wait_for_condition("Ready", "True", "ScaledToZero").await;
    ignored().await;
}

// While `replicas` is removed, no version of the Deployment has another count: pods that end because of a dip would end sessions.
#[requires(api_server)]
#[tokio::test]
async fn unsetting_replicas_never_dips() {
    let harness = Harness::start("dip").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({"replicas": 3})).await;
    harness.wait_for("there are three", "vmcp-x", has(3)).await;
    harness.settle().await;
    let before: Deployment = harness.wait_for_object("vmcp-x").await;
    let version = before.metadata.resource_version.unwrap();

    harness.apply_server(json!({"image": "other:1"})).await;
    let rolled = |deployment: &Deployment| {
        let pod = deployment.spec.template.spec.as_ref()?;
        (pod.containers[0].image.as_deref() == Some("other:1"))
            .then(|| deployment.metadata.resource_version.clone())
    };
    let last = harness.wait_for("the change is applied", "vmcp-x", rolled).await;
    let deployments = harness.api::<Deployment>();
    let watch = WatchParams::default().fields("metadata.name=vmcp-x").timeout(10);
    let events = deployments.watch(&watch, &version).await.unwrap();
    let mut events = std::pin::pin!(events);
    let mut counts = Vec::new();
    while let Some(event) = events.try_next().await.unwrap() {
        let WatchEvent::Modified(deployment) = event else {
            panic!("{event:?}")
        };
        counts.push(deployment.spec.replicas);
        if deployment.metadata.resource_version == last {
            break;
        }
    }
    assert!(
        counts.len() >= 2 && counts.iter().all(|count| *count == Some(3)),
        "{counts:?}"
    );
}

// The user's command, on the virtual server: up, to none, and up again.
#[requires(api_server)]
#[tokio::test]
async fn kubectl_scale_reaches_deployment() {
    let harness = Harness::start("kubectl-scale").await;
    harness.apply_group(&[]).await;
    harness
        .apply_server(json!({"sessionStorage": {"provider": "redis", "address": "redis:6379"}}))
        .await;
    harness.wait_for("the default is one", "vmcp-x", has(1)).await;
    for count in [3, 0, 2] {
        let replicas = format!("--replicas={count}");
        server()
            .kubectl(["scale", "vmcp/x", &replicas, "-n", &harness.namespace])
            .unwrap();
        harness
            .wait_for(&format!("there are {count}"), "vmcp-x", has(count))
            .await;
        harness.observe_deployment(usize::try_from(count).unwrap()).await;
        let reported =
            |server: &VirtualMCPServer| (server.status.as_ref()?.replicas == Some(count)).then_some(());
        harness
            .wait_for("the status reports the count", "x", reported)
            .await;
        if count == 0 {
            harness.wait_for_condition("Ready", "True", "ScaledToZero").await;
        }
    }
}

// An autoscaler of the Deployment owns the count, also after a restart of the operator, and its maximum gives the Deployment a budget.
#[requires(api_server)]
#[tokio::test]
async fn autoscaler_of_deployment_keeps_its_count() {
    let mut harness = Harness::start("deployment-hpa").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness.wait_for("the default is one", "vmcp-x", has(1)).await;
    harness
        .apply(&json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "theirs"},
            "spec": {
                "maxReplicas": 5, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vmcp-x"},
            },
        }))
        .await;
    harness.wait_for_object::<PodDisruptionBudget>("vmcp-x").await;
    scale(&harness, 4).await;
    harness.stop_operator().await;
    harness.start_operator().await;
    harness.apply_server(json!({"sessionAffinity": "ClientIP"})).await;
    let four = |deployment: &Deployment| deployment.spec.replicas == Some(4);
    harness
        .assert_stays("the count is the autoscaler's", "vmcp-x", four)
        .await;
}

/// Creates an autoscaler of another owner that scales the Deployment.
async fn apply_autoscaler(harness: &Harness) {
    harness
        .apply(&json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "theirs"},
            "spec": {
                "maxReplicas": 5,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vmcp-x"},
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
            },
        }))
        .await;
}

async fn scale(harness: &Harness, count: i32) {
    let change = json!({"spec": {"replicas": count}});
    let deployments = harness.api::<Deployment>();
    deployments
        .patch_scale("vmcp-x", &PatchParams::default(), &Patch::Merge(&change))
        .await
        .unwrap();
}
