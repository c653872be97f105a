//! Namespaces that assign user ids, as those of OpenShift.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value as Json, json};
use vmcp_external::requires;
use vmcp_operator::pod_user::PodUser;

use crate::harness::{Harness, RULES, server};
use crate::missing_rights::bind;
use crate::requests::accesses;

async fn assign_range(harness: &Harness) {
    harness
        .apply_cluster(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": harness.namespace, "annotations": {"openshift.io/sa.scc.uid-range": "1000680000/10000"},
            },
        }))
        .await;
}

fn user_id(deployment: &Deployment) -> Option<i64> {
    let context = deployment.spec.template.spec.as_ref()?.security_context.clone()?;
    assert_eq!(context.run_as_group, context.run_as_user);
    assert_eq!(context.fs_group, context.run_as_user);
    assert_eq!(context.run_as_non_root, Some(true));
    context.run_as_user
}

fn names(id: Option<i64>) -> impl Fn(&Deployment) -> Option<()> {
    move |deployment| (user_id(deployment) == id).then_some(())
}

const FIXED: Option<i64> = Some(65532);

// The range is detected, also when the namespace gets it later, and the setting overrides it.
#[requires(api_server)]
#[tokio::test]
async fn assigned_range_is_detected_and_overridden() {
    let mut harness = Harness::start("openshift").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({"image": "gateway:1"})).await;
    harness.wait_for("the id is fixed", "vmcp-x", names(FIXED)).await;
    assign_range(&harness).await;
    harness
        .wait_for("the namespace chooses the id", "vmcp-x", names(None))
        .await;
    for (setting, expected) in [
        (PodUser::Fixed, FIXED),
        (PodUser::Namespace, None),
        (PodUser::Auto, None),
    ] {
        harness.stop_operator().await;
        harness.pod_user = setting;
        harness.start_operator().await;
        harness
            .wait_for(&format!("{setting:?}"), "vmcp-x", names(expected))
            .await;
    }
}

// Without the right to read the namespace, the pods keep the id that they have, and not every reconcile asks again.
#[requires(api_server)]
#[tokio::test]
async fn missing_right_to_namespace_keeps_user_id() {
    let mut harness = Harness::without_operator("no-namespaces").await;
    harness.apply_group(&[]).await;
    assign_range(&harness).await;
    harness.start_operator().await;
    harness.apply_server(json!({"image": "gateway:1"})).await;
    harness.wait_for("there is no id", "vmcp-x", names(None)).await;
    harness.stop_operator().await;

    let mut rules: Json = serde_yaml::from_str(RULES).unwrap();
    rules
        .as_array_mut()
        .unwrap()
        .retain(|rule| rule["resources"][0] != "namespaces");
    bind(&harness, "Role", "without-namespaces", Some(rules)).await;
    harness.start_operator().await;
    harness.apply_server(json!({"image": "gateway:2"})).await;
    let changed = |deployment: &Deployment| {
        let pod = deployment.spec.template.spec.as_ref()?;
        (pod.containers[0].image.as_deref() == Some("gateway:2")).then(|| user_id(deployment))
    };
    let id = harness.wait_for("the image is applied", "vmcp-x", changed).await;
    assert_eq!(id, None);
    for _ in 0..3 {
        harness.reconcile().await;
    }
    let accesses = accesses(server(), &harness.namespace);
    let refused = accesses
        .iter()
        .filter(|access| access.resource == "namespaces" && access.code == 403);
    assert_eq!(refused.count(), 1);
}
