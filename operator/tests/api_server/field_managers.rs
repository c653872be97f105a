//! Other field managers of the objects that the operator applies.

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use vmcp_external::requires;

use crate::harness::Harness;

const MANAGER: &str = "platform-team";

/// Whether the fields of the other manager are as it applied them.
fn has_theirs(deployment: &Deployment) -> bool {
    let template = &deployment.spec.template;
    let metadata = template.metadata.as_ref().unwrap();
    let pod = template.spec.as_ref().unwrap();
    let container = |name: &str| pod.containers.iter().find(|container| container.name == name);
    let variables = container("gateway")
        .and_then(|gateway| gateway.env.clone())
        .unwrap_or_default();
    let is_named = deployment
        .managed_fields()
        .iter()
        .any(|fields| fields.manager.as_deref() == Some(MANAGER));
    is_named
        && metadata
            .annotations
            .as_ref()
            .is_some_and(|annotations| annotations.contains_key("example.com/scrape"))
        && container("proxy").is_some_and(|proxy| proxy.image.as_deref() == Some("proxy:1"))
        && variables
            .iter()
            .any(|variable| variable.name == "TEAM" && variable.value.as_deref() == Some("a"))
        && pod.priority_class_name.as_deref() == Some("important")
        && deployment.annotations().contains_key("example.com/owner")
}

// The fields that another field manager applies stay through a change of the spec, a restart of the operator and a repair, and each manager
// keeps the ownership of its own.
#[requires(api_server)]
#[tokio::test]
async fn fields_of_other_manager_survive_changes() {
    let mut harness = Harness::start("managers").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({"image": "gateway:1"})).await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    let theirs = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"annotations": {"example.com/owner": "platform"}},
        "spec": {"template": {
            "metadata": {"annotations": {"example.com/scrape": "true"}},
            "spec": {
                "priorityClassName": "important",
                "containers": [
                    {"name": "gateway", "env": [{"name": "TEAM", "value": "a"}]},
                    {"name": "proxy", "image": "proxy:1"},
                ],
            },
        }},
    });
    let deployments = harness.api::<Deployment>();
    let apply = PatchParams::apply(MANAGER);
    // Without force: none of these fields is the operator's.
    deployments
        .patch("vmcp-x", &apply, &Patch::Apply(&theirs))
        .await
        .unwrap();
    harness.assert_stays("their fields", "vmcp-x", has_theirs).await;

    let has_image = |image: &'static str| {
        move |deployment: &Deployment| {
            let pod = deployment.spec.template.spec.as_ref()?;
            let gateway = pod
                .containers
                .iter()
                .find(|container| container.name == "gateway")?;
            (gateway.image.as_deref() == Some(image)).then(|| deployment.clone())
        }
    };
    harness.apply_server(json!({"image": "gateway:2"})).await;
    let changed = harness
        .wait_for("the image is applied", "vmcp-x", has_image("gateway:2"))
        .await;
    assert!(has_theirs(&changed), "{changed:#?}");

    harness.stop_operator().await;
    harness.start_operator().await;
    harness.apply_server(json!({"image": "gateway:3"})).await;
    let changed = harness
        .wait_for("the image is applied", "vmcp-x", has_image("gateway:3"))
        .await;
    assert!(has_theirs(&changed), "{changed:#?}");

    // A field of the operator that the other manager takes is put back, and the others of that manager stay.
    let mut taken = theirs.clone();
    taken["spec"]["template"]["spec"]["containers"][0]["image"] = json!("theirs:1");
    let force = apply.force();
    deployments
        .patch("vmcp-x", &force, &Patch::Apply(&taken))
        .await
        .unwrap();
    let repaired = harness
        .wait_for("the image is put back", "vmcp-x", has_image("gateway:3"))
        .await;
    assert!(has_theirs(&repaired), "{repaired:#?}");
    harness.assert_stays("their fields", "vmcp-x", has_theirs).await;
}
