//! What a virtual server becomes.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value as Json, json};
use vmcp_crds::config::{GatewayConfig, HotConfig};
use vmcp_operator::desired::labels;

use crate::world::{World, eventually};

#[tokio::test]
async fn a_server_gets_all_its_children_and_they_hold_a_configuration_that_a_gateway_reads() {
    let Some(world) = World::start("children").await else {
        return;
    };
    world.group(&["time", "fetch"]).await;
    let storage = json!({"provider": "redis", "address": "redis:6379", "db": 2, "keyPrefix": "a:"});
    world
        .server(json!({"replicas": 2, "sessionStorage": storage}))
        .await;

    let deployment: Deployment = world.child("vmcp-x").await;
    world.child::<Service>("vmcp-x").await;
    world.child::<PodDisruptionBudget>("vmcp-x").await;
    world.child::<Secret>("vmcp-x-session-keys").await;
    let account: ServiceAccount = world.child("vmcp-x").await;
    assert_eq!(account.automount_service_account_token, Some(false));

    let startup: ConfigMap = world.child(&startup_config(&deployment)).await;
    assert_eq!(startup.immutable, Some(true));
    let text = &startup.data.unwrap()["gateway.yaml"];
    let config = GatewayConfig::parse(text, "gateway.yaml".as_ref()).unwrap();
    assert_eq!(
        (config.namespace.as_str(), config.name.as_str()),
        (world.namespace.as_str(), "x")
    );
    let written = serde_json::to_value(config.session_storage).unwrap();
    assert_eq!(written, storage);

    let hot: ConfigMap = world.child("vmcp-x-backends").await;
    let hot = HotConfig::parse(&hot.data.unwrap()["backends.yaml"], "backends.yaml".as_ref()).unwrap();
    let names: Vec<&str> = hot.backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["fetch", "time"], "sorted by name");

    let owner = &deployment.owner_references()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.name.as_str()),
        ("VirtualMCPServer", "x")
    );
}

#[tokio::test]
async fn the_affinity_of_the_service_is_the_servers() {
    let Some(world) = World::start("affinity").await else {
        return;
    };
    world.group(&[]).await;
    for affinity in ["ClientIP", "None"] {
        world.server(json!({"sessionAffinity": affinity})).await;
        world
            .sees(
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

#[tokio::test]
async fn drift_is_repaired() {
    let Some(world) = World::start("drift").await else {
        return;
    };
    world.group(&[]).await;
    world.server(json!({"replicas": 2})).await;
    world.child::<Deployment>("vmcp-x").await;

    let other_port = json!({"spec": {"selector": {"app.kubernetes.io/instance": "somebody-else"}}});
    edit::<Service>(&world, &other_port).await;
    let selector = |service: &Service| {
        let selector = service.spec.as_ref()?.selector.as_ref()?;
        (selector.get(labels::INSTANCE).map(String::as_str) == Some("x")).then_some(())
    };
    world.sees("the selector is ours again", "vmcp-x", selector).await;

    edit::<Deployment>(&world, &json!({"spec": {"replicas": 5}})).await;
    let two = |deployment: &Deployment| (deployment.spec.replicas == Some(2)).then_some(());
    world.sees("there are two replicas again", "vmcp-x", two).await;

    let before: Deployment = world.child("vmcp-x").await;
    world
        .api::<Deployment>()
        .delete("vmcp-x", &DeleteParams::background())
        .await
        .unwrap();
    let another = |deployment: &Deployment| (deployment.uid() != before.uid()).then_some(());
    world.sees("the Deployment is made anew", "vmcp-x", another).await;
}

#[tokio::test]
async fn what_others_add_to_our_objects_stays() {
    let Some(world) = World::start("additions").await else {
        return;
    };
    world.group(&[]).await;
    world.server(json!({})).await;
    world.child::<Deployment>("vmcp-x").await;
    let theirs = json!({"metadata": {"annotations": {"example.com/theirs": "yes"}}});
    edit::<Service>(&world, &theirs).await;
    world.server(json!({"sessionAffinity": "ClientIP"})).await;
    let service = |service: &Service| {
        (service.spec.as_ref()?.session_affinity.as_deref() == Some("ClientIP")).then(|| service.clone())
    };
    let service = world.sees("the change is applied", "vmcp-x", service).await;
    assert_eq!(
        service
            .annotations()
            .get("example.com/theirs")
            .map(String::as_str),
        Some("yes")
    );
}

#[tokio::test]
async fn the_disruption_budget_goes_when_one_replica_is_left() {
    let Some(world) = World::start("budget").await else {
        return;
    };
    world.group(&[]).await;
    world.server(json!({"replicas": 2})).await;
    world.child::<PodDisruptionBudget>("vmcp-x").await;
    world.server(json!({"replicas": 1})).await;
    let budgets = world.api::<PodDisruptionBudget>();
    eventually("the budget is gone", async || {
        budgets.get_opt("vmcp-x").await.unwrap().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_start_up_config_is_kept_while_a_replica_set_uses_it_and_then_goes() {
    let Some(world) = World::start("startup").await else {
        return;
    };
    world.group(&[]).await;
    world.server(json!({})).await;
    let first = startup_config(&world.child::<Deployment>("vmcp-x").await);
    let template = world.child::<Deployment>("vmcp-x").await.spec.template;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "vmcp-x-1", "labels": template.metadata.as_ref().unwrap().labels},
        "spec": {"replicas": 0, "template": template, "selector": {"matchLabels": {labels::INSTANCE: "x"}}},
    });
    world.apply(&set).await;

    world
        .server(json!({"sessionStorage": {"provider": "redis", "address": "redis:6379"}}))
        .await;
    let second = |deployment: &Deployment| Some(startup_config(deployment)).filter(|name| *name != first);
    let second = world
        .sees("the template names another ConfigMap", "vmcp-x", second)
        .await;
    world.observe_deployment(0).await;
    world.condition("SessionStorageWarning", "False").await;
    world.look().await;
    assert_eq!(startup_configs(&world).await, sorted([&first, &second]));

    world
        .api::<ReplicaSet>()
        .delete("vmcp-x-1", &DeleteParams::background())
        .await
        .unwrap();
    eventually("the unused ConfigMap is gone", async || {
        (startup_configs(&world).await == [second.clone()]).then_some(())
    })
    .await;
}

async fn startup_configs(world: &World) -> Vec<String> {
    let of_start = ListParams::default().labels("vmcp.dev/config-part=startup");
    let list = world.api::<ConfigMap>().list(&of_start).await.unwrap();
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

/// An edit by somebody who is not the operator.
async fn edit<K>(world: &World, change: &Json)
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api = world.api::<K>();
    api.patch("vmcp-x", &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
}
