//! The objects that the operator creates for a virtual server.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value as Json, json};
use vmcp_crds::config::{GatewayConfig, HotConfig};
use vmcp_external::requires;
use vmcp_operator::desired::labels;

use crate::harness::{Harness, eventually};

// A virtual server gets all its children, and their configuration is valid for the gateway.
#[requires(api_server)]
#[tokio::test]
async fn server_gets_children_with_valid_configuration() {
    let harness = Harness::start("children").await;
    harness.apply_group(&["time", "fetch"]).await;
    let storage = json!({"provider": "redis", "address": "redis:6379", "db": 2, "keyPrefix": "a:"});
    harness
        .apply_server(json!({"replicas": 2, "sessionStorage": storage}))
        .await;

    let deployment: Deployment = harness.wait_for_object("vmcp-x").await;
    harness.wait_for_object::<Service>("vmcp-x").await;
    harness.wait_for_object::<PodDisruptionBudget>("vmcp-x").await;
    harness.wait_for_object::<Secret>("vmcp-x-session-keys").await;
    let account: ServiceAccount = harness.wait_for_object("vmcp-x").await;
    assert_eq!(account.automount_service_account_token, Some(false));

    let startup: ConfigMap = harness.wait_for_object(&startup_config(&deployment)).await;
    assert_eq!(startup.immutable, Some(true));
    let text = &startup.data.unwrap()["gateway.yaml"];
    let config = GatewayConfig::parse(text, "gateway.yaml".as_ref()).unwrap();
    assert_eq!(
        (config.namespace.as_str(), config.name.as_str()),
        (harness.namespace.as_str(), "x")
    );
    let written = serde_json::to_value(config.session_storage).unwrap();
    assert_eq!(written, storage);

    let hot: ConfigMap = harness.wait_for_object("vmcp-x-backends").await;
    let hot = HotConfig::parse(&hot.data.unwrap()["backends.yaml"], "backends.yaml".as_ref()).unwrap();
    let names: Vec<&str> = hot.backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["fetch", "time"], "sorted by name");

    let owner = &deployment.owner_references()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.name.as_str()),
        ("VirtualMCPServer", "x")
    );
}

#[requires(api_server)]
#[tokio::test]
async fn service_gets_session_affinity_of_server() {
    let harness = Harness::start("affinity").await;
    harness.apply_group(&[]).await;
    for affinity in ["ClientIP", "None"] {
        harness.apply_server(json!({"sessionAffinity": affinity})).await;
        harness
            .wait_for(
                &format!("the affinity is {affinity}"),
                "vmcp-x",
                |service: &Service| {
                    let found = service.spec.as_ref()?.session_affinity.as_deref();
                    (found == Some(affinity)).then_some(())
                },
            )
            .await;
    }
}

#[requires(api_server)]
#[tokio::test]
async fn drift_is_repaired() {
    let harness = Harness::start("drift").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({"replicas": 2})).await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;

    let other_selector = json!({"spec": {"selector": {"app.kubernetes.io/instance": "another"}}});
    edit::<Service>(&harness, &other_selector).await;
    let selector = |service: &Service| {
        let selector = service.spec.as_ref()?.selector.as_ref()?;
        (selector.get(labels::INSTANCE).map(String::as_str) == Some("x")).then_some(())
    };
    harness
        .wait_for("the selector is restored", "vmcp-x", selector)
        .await;

    edit::<Deployment>(&harness, &json!({"spec": {"replicas": 5}})).await;
    let two = |deployment: &Deployment| (deployment.spec.replicas == Some(2)).then_some(());
    harness
        .wait_for("the replica count is restored", "vmcp-x", two)
        .await;

    let before: Deployment = harness.wait_for_object("vmcp-x").await;
    harness
        .api::<Deployment>()
        .delete("vmcp-x", &DeleteParams::background())
        .await
        .unwrap();
    let another = |deployment: &Deployment| (deployment.uid() != before.uid()).then_some(());
    harness
        .wait_for("the Deployment is created again", "vmcp-x", another)
        .await;
}

#[requires(api_server)]
#[tokio::test]
async fn fields_added_by_others_are_kept() {
    let harness = Harness::start("additions").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    let theirs = json!({"metadata": {"annotations": {"example.com/theirs": "yes"}}});
    edit::<Service>(&harness, &theirs).await;
    harness.apply_server(json!({"sessionAffinity": "ClientIP"})).await;
    let service = |service: &Service| {
        (service.spec.as_ref()?.session_affinity.as_deref() == Some("ClientIP")).then(|| service.clone())
    };
    let service = harness.wait_for("the change is applied", "vmcp-x", service).await;
    assert_eq!(
        service
            .annotations()
            .get("example.com/theirs")
            .map(String::as_str),
        Some("yes")
    );
}

#[requires(api_server)]
#[tokio::test]
async fn disruption_budget_is_deleted_for_one_replica() {
    let harness = Harness::start("budget").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({"replicas": 2})).await;
    harness.wait_for_object::<PodDisruptionBudget>("vmcp-x").await;
    harness.apply_server(json!({"replicas": 1})).await;
    let budgets = harness.api::<PodDisruptionBudget>();
    eventually("the budget is deleted", async || {
        budgets.get_opt("vmcp-x").await.unwrap().is_none().then_some(())
    })
    .await;
}

// A start-up ConfigMap is kept while a ReplicaSet uses it, and is deleted after that.
#[requires(api_server)]
#[tokio::test]
async fn unused_startup_config_is_deleted() {
    let harness = Harness::start("startup").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let first = startup_config(&harness.wait_for_object::<Deployment>("vmcp-x").await);
    let template = harness
        .wait_for_object::<Deployment>("vmcp-x")
        .await
        .spec
        .template;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "vmcp-x-1", "labels": template.metadata.as_ref().unwrap().labels},
        "spec": {"replicas": 0, "template": template, "selector": {"matchLabels": {labels::INSTANCE: "x"}}},
    });
    harness.apply(&set).await;

    harness
        .apply_server(json!({"sessionStorage": {"provider": "redis", "address": "redis:6379"}}))
        .await;
    let second = |deployment: &Deployment| Some(startup_config(deployment)).filter(|name| *name != first);
    let second = harness
        .wait_for("the template names another ConfigMap", "vmcp-x", second)
        .await;
    harness.observe_deployment(0).await;
    harness.wait_for_status("SessionStorageWarning", "False").await;
    harness.reconcile().await;
    assert_eq!(startup_configs(&harness).await, sorted([&first, &second]));

    harness
        .api::<ReplicaSet>()
        .delete("vmcp-x-1", &DeleteParams::background())
        .await
        .unwrap();
    eventually("the unused ConfigMap is deleted", async || {
        (startup_configs(&harness).await == [second.clone()]).then_some(())
    })
    .await;
}

async fn startup_configs(harness: &Harness) -> Vec<String> {
    let of_start = ListParams::default().labels("vmcp.dev/config-part=startup");
    let list = harness.api::<ConfigMap>().list(&of_start).await.unwrap();
    sorted(
        list.iter()
            .map(kube::ResourceExt::name_any)
            .collect::<Vec<_>>()
            .iter(),
    )
}

fn sorted<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().cloned().collect();
    names.sort();
    names
}

fn startup_config(deployment: &Deployment) -> String {
    let volumes = deployment
        .spec
        .template
        .spec
        .as_ref()
        .unwrap()
        .volumes
        .as_ref()
        .unwrap();
    let config = volumes.iter().find(|volume| volume.name == "config").unwrap();
    config.config_map.as_ref().unwrap().name.clone()
}

/// Edits an object as a client other than the operator.
async fn edit<K>(harness: &Harness, change: &Json)
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api = harness.api::<K>();
    api.patch("vmcp-x", &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
}
