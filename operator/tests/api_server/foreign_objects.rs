//! Objects of other owners that have the name of a child.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value as Json, json};
use vmcp_crds::session_key::SessionKey;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::requires;
use vmcp_operator::owner::is_controlled_by;

use crate::harness::{Harness, eventually};

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

/// The message of the `Ready` condition of the virtual server `x`.
async fn message(harness: &Harness) -> String {
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    let conditions = server.status.unwrap().conditions;
    vmcp_crds::condition::find(&conditions, "Ready")
        .unwrap()
        .message
        .clone()
}

async fn delete<K>(harness: &Harness, name: &str)
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api = harness.api::<K>();
    api.delete(name, &DeleteParams::default()).await.unwrap();
}

// A foreign object is left unchanged, and conditions and an Event report it until it is deleted.
#[requires(api_server)]
#[tokio::test]
async fn foreign_object_is_left_alone_and_reported() {
    let harness = Harness::start("foreign").await;
    harness.apply(&service()).await;
    harness.apply(&deployment()).await;
    let theirs: (Service, Deployment) = (
        harness.wait_for_object("vmcp-x").await,
        harness.wait_for_object("vmcp-x").await,
    );
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;

    harness
        .wait_for_condition("Ready", "False", "ChildNotOwned")
        .await;
    harness
        .wait_for_condition("Stalled", "True", "ChildNotOwned")
        .await;
    let text = message(&harness).await;
    assert!(
        text.contains(&format!("Service {}/vmcp-x", harness.namespace))
            && text.contains("delete or rename it"),
        "{text}"
    );
    harness.wait_for_event("Warning", "ChildNotOwned").await;
    let same = |service: &Service| service.resource_version() == theirs.0.resource_version();
    harness
        .assert_stays("the foreign object is unchanged", "vmcp-x", same)
        .await;

    delete::<Service>(&harness, "vmcp-x").await;
    eventually("the Deployment is next", async || {
        message(&harness).await.contains("Deployment").then_some(())
    })
    .await;
    let same = |deployment: &Deployment| deployment.resource_version() == theirs.1.resource_version();
    harness
        .assert_stays("the foreign object is unchanged", "vmcp-x", same)
        .await;

    delete::<Deployment>(&harness, "vmcp-x").await;
    harness
        .wait_for_condition("Reconciling", "True", "DeploymentProgressing")
        .await;
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    assert!(is_controlled_by(
        &harness.wait_for_object::<Service>("vmcp-x").await,
        &server
    ));
    assert!(is_controlled_by(
        &harness.wait_for_object::<Deployment>("vmcp-x").await,
        &server
    ));
}

// The operator waits until the garbage collector has deleted the children of a deleted server of the same name.
#[requires(api_server)]
#[tokio::test]
async fn children_of_predecessor_are_waited_for() {
    let harness = Harness::start("predecessor").await;
    harness.apply_group(&[]).await;
    let left = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "vmcp-x-backends", "ownerReferences": [{
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "name": "x", "controller": true,
            "uid": "00000000-0000-4000-8000-000000000000",
        }]},
    });
    harness.apply(&left).await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("Reconciling", "True", "ChildNotOwned")
        .await;
    // Stands in for the garbage collector.
    delete::<ConfigMap>(&harness, "vmcp-x-backends").await;
    harness
        .wait_for_condition("Reconciling", "True", "DeploymentProgressing")
        .await;
}

// If another client removes the owner reference or the labels of a child, the operator restores them.
#[requires(api_server)]
#[tokio::test]
async fn removed_owner_or_labels_are_restored() {
    let harness = Harness::start("taken-away").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    let before: Service = harness.wait_for_object("vmcp-x").await;
    for change in [
        json!({"metadata": {"ownerReferences": null}}),
        json!({"metadata": {"labels": null}}),
    ] {
        let services = harness.api::<Service>();
        services
            .patch("vmcp-x", &PatchParams::default(), &Patch::Merge(&change))
            .await
            .unwrap();
        let repaired = |service: &Service| {
            let whole = is_controlled_by(service, &server) && service.labels() == before.labels();
            (whole && service.uid() == before.uid()).then_some(())
        };
        harness.wait_for("it is repaired", "vmcp-x", repaired).await;
    }
}

/// A valid Secret with session keys for `x`.
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

// Session keys of a deleted predecessor are not used: the garbage collector will delete them, and sessions would end with them.
#[requires(api_server)]
#[tokio::test]
async fn session_keys_of_a_predecessor_are_not_adopted() {
    let harness = Harness::start("predecessor-keys").await;
    harness.apply_group(&[]).await;
    let left = json!({"ownerReferences": [{
        "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "name": "x", "controller": true,
        "uid": "00000000-0000-4000-8000-000000000000",
    }]});
    harness.apply(&session_keys(&left)).await;
    let before: Secret = harness.wait_for_object("vmcp-x-session-keys").await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("Reconciling", "True", "ChildNotOwned")
        .await;
    assert!(
        harness
            .api::<Deployment>()
            .get_opt("vmcp-x")
            .await
            .unwrap()
            .is_none()
    );
    delete::<Secret>(&harness, "vmcp-x-session-keys").await;
    harness
        .wait_for_condition("Reconciling", "True", "DeploymentProgressing")
        .await;
    let after: Secret = harness.wait_for_object("vmcp-x-session-keys").await;
    assert_ne!(before.data, after.data);
}

#[requires(api_server)]
#[tokio::test]
async fn session_keys_being_deleted_are_not_adopted() {
    let harness = Harness::start("deleted-keys").await;
    harness.apply_group(&[]).await;
    harness
        .apply(&session_keys(&json!({"finalizers": ["example.com/backup"]})))
        .await;
    delete::<Secret>(&harness, "vmcp-x-session-keys").await;
    let before: Secret = harness.wait_for_object("vmcp-x-session-keys").await;
    assert!(before.metadata.deletion_timestamp.is_some());
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("Reconciling", "True", "ChildNotOwned")
        .await;
    assert!(message(&harness).await.contains("being deleted"));
    assert!(
        harness
            .api::<Deployment>()
            .get_opt("vmcp-x")
            .await
            .unwrap()
            .is_none()
    );
    let kept = json!({"metadata": {"finalizers": null}});
    let secrets = harness.api::<Secret>();
    secrets
        .patch(
            "vmcp-x-session-keys",
            &PatchParams::default(),
            &Patch::Merge(&kept),
        )
        .await
        .unwrap();
    harness
        .wait_for_condition("Reconciling", "True", "DeploymentProgressing")
        .await;
    let after: Secret = harness.wait_for_object("vmcp-x-session-keys").await;
    assert_ne!(before.uid(), after.uid());
}
