//! Objects of somebody else that have the name of a child.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value as Json, json};
use vmcp_crds::session_key::SessionKey;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_operator::owner::is_controlled_by;

use crate::world::{World, eventually};

fn service() -> Json {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "vmcp-x"},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]},
    })
}

fn deployment() -> Json {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "vmcp-x"},
        "spec": {
            "selector": {"matchLabels": {"app": "theirs"}},
            "template": {
                "metadata": {"labels": {"app": "theirs"}},
                "spec": {"containers": [{"name": "theirs", "image": "theirs:1"}]},
            },
        },
    })
}

/// What the virtual server `x` says of what is in its way.
async fn message(world: &World) -> String {
    let server: VirtualMCPServer = world.child("x").await;
    let conditions = server.status.unwrap().conditions;
    vmcp_crds::condition::find(&conditions, "Ready")
        .unwrap()
        .message
        .clone()
}

async fn delete<K>(world: &World, name: &str)
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api = world.api::<K>();
    api.delete(name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn an_object_of_somebody_else_is_left_alone_and_told_of_until_it_goes() {
    let Some(world) = World::start("foreign").await else {
        return;
    };
    world.apply(&service()).await;
    world.apply(&deployment()).await;
    let theirs: (Service, Deployment) = (world.child("vmcp-x").await, world.child("vmcp-x").await);
    world.group(&[]).await;
    world.server(json!({})).await;

    world.says("Ready", "False", "ChildNotOwned").await;
    world.says("Stalled", "True", "ChildNotOwned").await;
    let said = message(&world).await;
    assert!(
        said.contains(&format!("Service {}/vmcp-x", world.namespace)) && said.contains("delete it"),
        "{said}"
    );
    let events = world.api::<Event>();
    eventually("an event tells of it", async || {
        let list = events.list(&ListParams::default()).await.unwrap();
        list.iter()
            .any(|event| {
                event.reason.as_deref() == Some("ChildNotOwned") && event.type_.as_deref() == Some("Warning")
            })
            .then_some(())
    })
    .await;
    let same = |service: &Service| service.resource_version() == theirs.0.resource_version();
    world.stays("it is as they made it", "vmcp-x", same).await;

    delete::<Service>(&world, "vmcp-x").await;
    eventually("the Deployment is next", async || {
        message(&world).await.contains("Deployment").then_some(())
    })
    .await;
    let same = |deployment: &Deployment| deployment.resource_version() == theirs.1.resource_version();
    world.stays("it is as they made it", "vmcp-x", same).await;

    delete::<Deployment>(&world, "vmcp-x").await;
    world.says("Reconciling", "True", "DeploymentProgressing").await;
    let server: VirtualMCPServer = world.child("x").await;
    assert!(is_controlled_by(&world.child::<Service>("vmcp-x").await, &server));
    assert!(is_controlled_by(
        &world.child::<Deployment>("vmcp-x").await,
        &server
    ));
}

#[tokio::test]
async fn what_a_deleted_server_of_the_same_name_left_is_waited_for() {
    let Some(world) = World::start("predecessor").await else {
        return;
    };
    world.group(&[]).await;
    let left = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "vmcp-x-backends", "ownerReferences": [{
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "name": "x", "controller": true,
            "uid": "00000000-0000-4000-8000-000000000000",
        }]},
    });
    world.apply(&left).await;
    world.server(json!({})).await;
    world.says("Reconciling", "True", "ChildNotOwned").await;
    // As the garbage collector does.
    delete::<ConfigMap>(&world, "vmcp-x-backends").await;
    world.says("Reconciling", "True", "DeploymentProgressing").await;
}

#[tokio::test]
async fn an_object_of_ours_stays_ours_when_somebody_takes_its_owner_or_its_labels() {
    let Some(world) = World::start("taken-away").await else {
        return;
    };
    world.group(&[]).await;
    world.server(json!({})).await;
    world.child::<Deployment>("vmcp-x").await;
    let server: VirtualMCPServer = world.child("x").await;
    let before: Service = world.child("vmcp-x").await;
    for change in [
        json!({"metadata": {"ownerReferences": null}}),
        json!({"metadata": {"labels": null}}),
    ] {
        let services = world.api::<Service>();
        services
            .patch("vmcp-x", &PatchParams::default(), &Patch::Merge(&change))
            .await
            .unwrap();
        let repaired = |service: &Service| {
            let whole = is_controlled_by(service, &server) && service.labels() == before.labels();
            (whole && service.uid() == before.uid()).then_some(())
        };
        world.sees("it is repaired", "vmcp-x", repaired).await;
    }
}

/// A Secret that could be the session keys of `x`.
fn session_keys(metadata: &Json) -> Json {
    let key = SessionKey::generate().unwrap().to_text();
    let mut secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vmcp-x-session-keys"}, "stringData": {"current": key},
    });
    for (field, value) in metadata.as_object().unwrap() {
        secret["metadata"][field] = value.clone();
    }
    secret
}

// The garbage collector is about to remove them: sessions signed with them would end a moment later.
#[tokio::test]
async fn session_keys_of_a_predecessor_are_not_adopted() {
    let Some(world) = World::start("predecessor-keys").await else {
        return;
    };
    world.group(&[]).await;
    let left = json!({"ownerReferences": [{
        "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "name": "x", "controller": true,
        "uid": "00000000-0000-4000-8000-000000000000",
    }]});
    world.apply(&session_keys(&left)).await;
    let before: Secret = world.child("vmcp-x-session-keys").await;
    world.server(json!({})).await;
    world.says("Reconciling", "True", "ChildNotOwned").await;
    assert!(
        world
            .api::<Deployment>()
            .get_opt("vmcp-x")
            .await
            .unwrap()
            .is_none()
    );
    delete::<Secret>(&world, "vmcp-x-session-keys").await;
    world.says("Reconciling", "True", "DeploymentProgressing").await;
    let after: Secret = world.child("vmcp-x-session-keys").await;
    assert_ne!(before.data, after.data);
}

#[tokio::test]
async fn session_keys_that_are_being_deleted_are_not_adopted() {
    let Some(world) = World::start("deleted-keys").await else {
        return;
    };
    world.group(&[]).await;
    world
        .apply(&session_keys(&json!({"finalizers": ["example.com/backup"]})))
        .await;
    delete::<Secret>(&world, "vmcp-x-session-keys").await;
    let before: Secret = world.child("vmcp-x-session-keys").await;
    assert!(before.metadata.deletion_timestamp.is_some());
    world.server(json!({})).await;
    world.says("Reconciling", "True", "ChildNotOwned").await;
    assert!(message(&world).await.contains("being deleted"));
    assert!(
        world
            .api::<Deployment>()
            .get_opt("vmcp-x")
            .await
            .unwrap()
            .is_none()
    );
    let kept = json!({"metadata": {"finalizers": null}});
    let secrets = world.api::<Secret>();
    secrets
        .patch(
            "vmcp-x-session-keys",
            &PatchParams::default(),
            &Patch::Merge(&kept),
        )
        .await
        .unwrap();
    world.says("Reconciling", "True", "DeploymentProgressing").await;
    let after: Secret = world.child("vmcp-x-session-keys").await;
    assert_ne!(before.uid(), after.uid());
}
