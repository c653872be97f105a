//! The objects of a server.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value as Json, json};
use vmcp_external::requires;

use crate::harness::{Harness, eventually};

// The API server accepts what is rendered from a spec with every field, and keeps it: nothing is defaulted away.
#[requires(api_server)]
#[tokio::test]
async fn objects_of_full_spec_are_accepted() {
    let harness = Harness::start("server-objects").await;
    harness
        .apply_mcp_server(
            "weather",
            json!({
                "image": "weather:1", "command": ["weather"], "args": ["-v"], "processes": "perSession", "maxProcesses": 8,
                "idleTimeout": "10m", "replicas": 2, "port": 3000,
                "env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "weather", "key": "token"}}}],
                "envFrom": [{"configMapRef": {"name": "weather"}}], "imagePullSecrets": [{"name": "registry"}],
                "serviceAccountName": "weather", "securityContext": {"runAsUser": 1000},
                "podTemplate": {"spec": {
                    "automountServiceAccountToken": true, "volumes": [{"name": "data", "emptyDir": {}}],
                    "containers": [{"name": "mcp", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
                }},
                "networkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
            }),
        )
        .await;
    let deployment: Deployment = harness.wait_for_object("mcp-weather").await;
    let pod = deployment.spec.template.spec.unwrap();
    assert_eq!(pod.automount_service_account_token, Some(true));
    let container = &pod.containers[0];
    assert_eq!(
        container.command.as_deref(),
        Some(&["/vmcp/vmcp-gateway".to_owned()][..])
    );
    assert!(container.args.as_ref().unwrap().ends_with(&[
        "--".to_owned(),
        "weather".to_owned(),
        "-v".to_owned()
    ]));
    let init = &pod.init_containers.unwrap()[0];
    assert_eq!(init.image.as_deref(), Some("vmcp-gateway:test"));
    let service: Service = harness.wait_for_object("mcp-weather").await;
    let service = service.spec.unwrap();
    assert_eq!(service.cluster_ip.as_deref(), Some("None"));
    assert_eq!(service.ports.unwrap()[0].port, 3000);
    let policy: NetworkPolicy = harness.wait_for_object("mcp-weather").await;
    assert_eq!(policy.spec.unwrap().policy_types.unwrap(), ["Ingress", "Egress"]);
}

// Without a NetworkPolicy in the spec there is one, and it goes when the spec says so.
#[requires(api_server)]
#[tokio::test]
async fn network_policy_of_server_exists_by_default() {
    let harness = Harness::start("server-policies").await;
    let apply = async |policy: Json| {
        let spec = json!({"npm": {"package": "weather"}, "networkPolicy": policy});
        harness.apply_mcp_server("weather", spec).await;
    };
    apply(json!({})).await;
    harness.wait_for_object::<NetworkPolicy>("mcp-weather").await;
    apply(json!({"enabled": false})).await;
    let policies = harness.api::<NetworkPolicy>();
    eventually("the policy is deleted", async || {
        policies
            .get_opt("mcp-weather")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
}

// A virtual server and a server of one name do not touch each other's objects.
#[requires(api_server)]
#[tokio::test]
async fn servers_of_both_kinds_may_have_one_name() {
    let harness = Harness::start("one-name").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness
        .apply_mcp_server("x", json!({"npm": {"package": "x"}}))
        .await;
    harness.roll_out_server("x", &["10.0.0.7"]).await;
    harness
        .wait_for_server_condition("x", "Ready", "True", "Serving")
        .await;
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;
    harness.settle().await;
    let deployments = harness.api::<Deployment>();
    let list = deployments.list(&ListParams::default()).await.unwrap();
    let mut owners: Vec<(String, String)> = list
        .into_iter()
        .map(|deployment| {
            let owner = deployment.metadata.owner_references.unwrap().remove(0);
            (deployment.metadata.name.unwrap(), owner.kind)
        })
        .collect();
    owners.sort();
    let expected = [("mcp-x", "MCPServer"), ("vmcp-x", "VirtualMCPServer")];
    assert_eq!(
        owners,
        expected.map(|(name, kind)| (name.to_owned(), kind.to_owned()))
    );
}

// An edit of the Deployment is undone, and the Event names the field of the MCPServer.
#[requires(api_server)]
#[tokio::test]
async fn edit_of_server_object_is_undone_with_event() {
    let harness = Harness::start("server-edit").await;
    harness
        .apply_mcp_server("weather", json!({"image": "weather:1", "command": ["weather"]}))
        .await;
    harness.roll_out_server("weather", &["10.0.0.7"]).await;
    harness
        .wait_for_server_condition("weather", "Ready", "True", "Serving")
        .await;
    let deployments = harness.api::<Deployment>();
    let edit = json!({"spec": {"template": {"spec": {"containers": [{"name": "mcp", "image": "other:1"}]}}}});
    let editor = PatchParams {
        field_manager: Some("kubectl-edit".to_owned()),
        ..PatchParams::default()
    };
    deployments
        .patch("mcp-weather", &editor, &Patch::Strategic(&edit))
        .await
        .unwrap();
    let is_ours = |deployment: &Deployment| {
        let pod = deployment.spec.template.spec.as_ref()?;
        (pod.containers[0].image.as_deref() == Some("weather:1")).then_some(())
    };
    harness
        .wait_for("the image is the spec's", "mcp-weather", is_ours)
        .await;
    let events = harness.api::<Event>();
    eventually("an Event names the field", async || {
        let list = events.list(&ListParams::default()).await.unwrap();
        list.iter()
            .any(|event| {
                event.note.as_ref().is_some_and(|note| {
                    note.contains("by kubectl-edit")
                        && note.ends_with("set spec.image of the MCPServer instead")
                })
            })
            .then_some(())
    })
    .await;
}
