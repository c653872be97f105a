//! Changes that people make by hand to the objects of a virtual server.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use kube::Resource;
use kube::api::{ListParams, Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use vmcp_external::requires;

use crate::harness::{Harness, eventually};

/// Edits the object `vmcp-x` as `kubectl edit` does.
async fn edit<K>(harness: &Harness, change: &Json)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let editor = PatchParams {
        field_manager: Some("kubectl-edit".to_owned()),
        ..PatchParams::default()
    };
    harness
        .api::<K>()
        .patch("vmcp-x", &editor, &Patch::Strategic(change))
        .await
        .unwrap();
}

/// The notes of the Events about undone changes.
async fn notes(harness: &Harness) -> Vec<String> {
    let list = harness.api::<Event>().list(&ListParams::default()).await.unwrap();
    let undone = list
        .items
        .into_iter()
        .filter(|event| event.reason.as_deref() == Some("ChangeUndone"));
    undone.filter_map(|event| event.note).collect()
}

// An edit of a field that a field of the VirtualMCPServer sets is undone, and an Event names that field. An addition stays, and is no news.
#[requires(api_server)]
#[tokio::test]
async fn undone_edit_is_an_event_with_the_right_field() {
    let harness = Harness::start("hand-edits").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    harness.settle().await;

    edit::<Service>(
        &harness,
        &json!({"metadata": {"annotations": {"example.com/theirs": "yes"}}}),
    )
    .await;
    edit::<Service>(&harness, &json!({"spec": {"type": "LoadBalancer"}})).await;
    let limit = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "gateway", "resources": {"limits": {"memory": "128Mi"}}},
    ]}}}});
    edit::<Deployment>(&harness, &limit).await;
    let expected = [
        "Deployment vmcp-x: a change by kubectl-edit of spec.template.spec.containers[gateway].resources.limits.memory was undone; set \
         spec.resources of the VirtualMCPServer instead",
        "Service vmcp-x: a change by kubectl-edit of spec.type was undone; set spec.service.type of the VirtualMCPServer instead",
    ];
    for note in expected {
        eventually(&format!("an Event says: {note}"), async || {
            let notes = notes(&harness).await;
            notes.iter().any(|found| found == note).then_some(())
        })
        .await;
    }
    harness.settle().await;
    assert_eq!(notes(&harness).await.len(), expected.len());
}
