//! New custom resource definitions while objects exist and the operator runs.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use serde_json::{Value as Json, json};
use vmcp_cluster::ApiServer;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::requires;

use crate::harness::{Harness, eventually};

/// An older definition: fields and rules that came later are missing, and it sets no default status.
fn older(definition: &Json) -> Json {
    let mut older = definition.clone();
    remove_rules(&mut older);
    let schema = &mut older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    if let Some(status) = schema.get_mut("status").and_then(Json::as_object_mut) {
        status.remove("default");
    }
    if let Some(spec) = schema
        .pointer_mut("/spec/properties")
        .and_then(Json::as_object_mut)
    {
        spec.retain(|field, _| !["networkPolicy", "podTemplate", "httpRoute"].contains(&field.as_str()));
    }
    older
}

fn remove_rules(schema: &mut Json) {
    match schema {
        Json::Object(fields) => {
            fields.remove("x-kubernetes-validations");
            fields.values_mut().for_each(remove_rules);
        }
        Json::Array(items) => items.iter_mut().for_each(remove_rules),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
    }
}

// Objects that were created with older definitions stay, and so do their pods, when the definitions are replaced under a running operator. A new field has
// its effect for the next operator.
#[requires(api_server)]
#[tokio::test]
async fn new_definitions_keep_objects_and_pods() {
    let server = tokio::task::spawn_blocking(|| ApiServer::start().unwrap())
        .await
        .unwrap();
    let mut harness = Harness::on(&server, "definitions").await;
    let definitions: Vec<Json> = vmcp_crds::v1alpha1::yaml()
        .unwrap()
        .into_iter()
        .map(|(_, text)| serde_yaml::from_str(&text).unwrap())
        .collect();
    for definition in &definitions {
        harness.apply_cluster(&older(definition)).await;
    }
    eventually("the older definition is served", async || {
        let fields = server.kubectl(["explain", "vmcp.spec"]).ok()?;
        (!fields.contains("networkPolicy")).then_some(())
    })
    .await;
    harness.start_operator().await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({"replicas": 2})).await;
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;
    harness.observe_deployment(2).await;
    let before: Deployment = harness.wait_for_object("vmcp-x").await;

    for definition in &definitions {
        harness.apply_cluster(definition).await;
    }
    eventually("the new definition is served", async || {
        let fields = server.kubectl(["explain", "vmcp.spec"]).ok()?;
        fields.contains("networkPolicy").then_some(())
    })
    .await;
    let unchanged = |deployment: &Deployment| deployment.metadata.generation == before.metadata.generation;
    harness
        .assert_stays("the pods are not replaced", "vmcp-x", unchanged)
        .await;
    // As an upgrade does. The API server drops new fields from a watch that is older than the definition, for a minute or two.
    harness.stop_operator().await;
    harness.start_operator().await;
    // It may also drop the new field for a moment after it has explained it.
    let servers = harness.api::<VirtualMCPServer>();
    eventually("the new field is kept", async || {
        harness
            .apply_server(json!({"replicas": 2, "networkPolicy": {}}))
            .await;
        let server = servers.get("x").await.unwrap();
        server.spec.network_policy.is_some().then_some(())
    })
    .await;
    harness.wait_for_object::<NetworkPolicy>("vmcp-x").await;
    let after: Deployment = harness.wait_for_object("vmcp-x").await;
    assert_eq!(after.uid(), before.uid());
    assert!(unchanged(&after), "{after:#?}");
    harness.stop_operator().await;
}
