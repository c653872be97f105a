//! Who decides how many gateway pods there are.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use vmcp_crds::v1alpha1::VirtualMCPServer;

use crate::world::World;

fn has(count: i32) -> impl Fn(&Deployment) -> Option<()> {
    move |deployment| (deployment.spec.replicas == Some(count)).then_some(())
}

#[tokio::test]
async fn unsetting_replicas_keeps_the_count_that_was() {
    let Some(world) = World::start("unset").await else {
        return;
    };
    world.group(&[]).await;
    world.server(json!({"replicas": 3})).await;
    world.sees("there are three", "vmcp-x", has(3)).await;

    world.server(json!({})).await;
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
    let count = world
        .sees("the count is no longer the operator's", "vmcp-x", handed_over)
        .await;
    assert_eq!(count, Some(3));

    // As an autoscaler does.
    scale(&world, 5).await;
    world.server(json!({"sessionAffinity": "ClientIP"})).await;
    let sticky = |service: &Service| {
        (service.spec.as_ref()?.session_affinity.as_deref() == Some("ClientIP")).then_some(())
    };
    world.sees("the change is applied", "vmcp-x", sticky).await;
    world
        .stays(
            "the count is the autoscaler's",
            "vmcp-x",
            |deployment: &Deployment| deployment.spec.replicas == Some(5),
        )
        .await;

    world.server(json!({"replicas": 2})).await;
    world.sees("the server decides again", "vmcp-x", has(2)).await;
    world.server(json!({})).await;
    world.sees("and gives it up again", "vmcp-x", handed_over).await;
    world
        .sees("without a change of the count", "vmcp-x", has(2))
        .await;
}

#[tokio::test]
async fn a_server_without_replicas_never_sets_a_count() {
    let Some(world) = World::start("hands-off").await else {
        return;
    };
    world.group(&[]).await;
    world.server(json!({})).await;
    world.sees("the default is one", "vmcp-x", has(1)).await;
    scale(&world, 4).await;
    world.server(json!({"image": "other:1"})).await;
    let rolled = |deployment: &Deployment| {
        let image = deployment.spec.template.spec.as_ref()?.containers[0]
            .image
            .as_deref();
        (image == Some("other:1")).then_some(deployment.spec.replicas)
    };
    assert_eq!(
        world.sees("the image is applied", "vmcp-x", rolled).await,
        Some(4)
    );
}

#[tokio::test]
async fn scaling_the_server_scales_the_deployment() {
    let Some(world) = World::start("scale").await else {
        return;
    };
    world.group(&[]).await;
    world.server(json!({})).await;
    world.sees("the default is one", "vmcp-x", has(1)).await;
    let three = json!({"spec": {"replicas": 3}});
    let servers = world.api::<VirtualMCPServer>();
    servers
        .patch_scale("x", &PatchParams::default(), &Patch::Merge(&three))
        .await
        .unwrap();
    world.sees("there are three", "vmcp-x", has(3)).await;
    world.observe_deployment(3).await;
    let reported = |server: &VirtualMCPServer| {
        let status = server.status.as_ref()?;
        (status.replicas == Some(3)).then(|| status.selector.clone())
    };
    let selector = world.sees("the status says so", "x", reported).await;
    assert!(selector.unwrap().contains("app.kubernetes.io/instance=x"));
}

#[tokio::test]
async fn memory_with_replicas_or_an_autoscaler_is_warned_about() {
    let Some(world) = World::start("warning").await else {
        return;
    };
    world.group(&[]).await;
    world.server(json!({"replicas": 2})).await;
    world
        .says(
            "SessionStorageWarning",
            "True",
            "SessionStorageMissingForReplicas",
        )
        .await;
    world.server(json!({"replicas": 1})).await;
    world.condition("SessionStorageWarning", "False").await;
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {
            "maxReplicas": 5,
            "scaleTargetRef": {"apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "name": "x"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
        },
    });
    world.apply(&autoscaler).await;
    world.condition("SessionStorageWarning", "True").await;
    world
        .server(json!({"replicas": 1, "sessionStorage": {"provider": "redis", "address": "redis:6379"}}))
        .await;
    world
        .says("SessionStorageWarning", "False", "SessionStorageConfigured")
        .await;
}

async fn scale(world: &World, count: i32) {
    let change = json!({"spec": {"replicas": count}});
    let deployments = world.api::<Deployment>();
    deployments
        .patch_scale("vmcp-x", &PatchParams::default(), &Patch::Merge(&change))
        .await
        .unwrap();
}
