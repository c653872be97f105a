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

/// The notes of the Events about undone changes, and how often each was published.
async fn notes(harness: &Harness) -> Vec<(String, i32)> {
    let list = harness.api::<Event>().list(&ListParams::default()).await.unwrap();
    let undone = list
        .items
        .into_iter()
        .filter(|event| event.reason.as_deref() == Some("ChangeUndone"));
    let count = |event: &Event| event.series.as_ref().map_or(1, |series| series.count);
    undone
        .filter_map(|event| Some((event.note.clone()?, count(&event))))
        .collect()
}

async fn wait_for_note(harness: &Harness, note: &str, count: i32) {
    eventually(&format!("an Event says {count} times: {note}"), async || {
        let notes = notes(harness).await;
        notes.contains(&(note.to_owned(), count)).then_some(())
    })
    .await;
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
        wait_for_note(&harness, note, 1).await;
    }
    harness.settle().await;
    assert_eq!(notes(&harness).await.len(), expected.len());
}

// A second edit of the same object has an Event of its own, and the same edit again counts up the first.
#[requires(api_server)]
#[tokio::test]
async fn each_undone_edit_of_object_has_its_note() {
    let harness = Harness::start("edited-twice").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    harness.settle().await;

    let note = |field: &str| {
        format!(
            "Service vmcp-x: a change by kubectl-edit of spec.{field} was undone; set spec.service.{field} of the VirtualMCPServer instead"
        )
    };
    let type_ = json!({"spec": {"type": "NodePort"}});
    edit::<Service>(&harness, &type_).await;
    wait_for_note(&harness, &note("type"), 1).await;
    let affinity = json!({"spec": {"sessionAffinity": "ClientIP"}});
    edit::<Service>(&harness, &affinity).await;
    let second = note("sessionAffinity").replace("spec.service.", "spec.");
    wait_for_note(&harness, &second, 1).await;
    edit::<Service>(&harness, &type_).await;
    wait_for_note(&harness, &note("type"), 2).await;
    assert_eq!(notes(&harness).await.len(), 2);
}
