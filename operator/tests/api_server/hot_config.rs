//! Delivery of a changed hot configuration to running gateways.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use serde_json::json;
use vmcp_crds::status::config_hash;
use vmcp_crds::v1alpha1::MCPServerEntry;
use vmcp_external::requires;
use vmcp_operator::desired::labels;

use crate::fake_gateway::FakeGateway;
use crate::harness::{Harness, eventually};

/// The hash of the hot configuration in its ConfigMap.
pub(crate) async fn rendered_hash(harness: &Harness) -> String {
    let hot: ConfigMap = harness.wait_for_object("vmcp-x-backends").await;
    config_hash(&hot.data.unwrap()["backends.yaml"])
}

/// Longer than the operator's interval between two nudges.
const NUDGE_WAIT: Duration = Duration::from_secs(4);

fn annotation(pod: &Pod) -> Option<String> {
    pod.annotations().get(labels::CONFIG_HASH).cloned()
}

// A change of the backends changes only the hot ConfigMap, and the operator nudges the pods to remount it.
#[requires(api_server)]
#[tokio::test]
async fn backend_change_updates_hot_config_and_nudges_pods() {
    let harness = Harness::start("backends").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({"replicas": 2})).await;
    let (token, before) = (harness.status_token().await, rendered_hash(&harness).await);
    let gateways = [
        FakeGateway::start(&token, &before).await,
        FakeGateway::start(&token, &before).await,
    ];
    harness.roll_out(&[&gateways[0], &gateways[1]]).await;
    harness.wait_for_status("Ready", "True").await;
    let deployment: Deployment = harness.wait_for_object("vmcp-x").await;
    for gateway in &gateways {
        let pod: Pod = harness.wait_for_object(&gateway.pod).await;
        assert_eq!(annotation(&pod), None, "a current pod is not nudged");
    }

    harness.apply_member("fetch").await;
    let changed = |hot: &ConfigMap| {
        let hash = config_hash(&hot.data.as_ref()?["backends.yaml"]);
        (hash != before).then_some(hash)
    };
    let after = harness
        .wait_for("the ConfigMap has the new member", "vmcp-x-backends", changed)
        .await;
    for gateway in &gateways {
        let nudged = |pod: &Pod| (annotation(pod)? == after).then_some(());
        harness.wait_for("the pod is nudged", &gateway.pod, nudged).await;
    }
    harness
        .wait_for_condition("Ready", "False", "ConfigPending")
        .await;
    let now: Deployment = harness.wait_for_object("vmcp-x").await;
    assert_eq!(
        now.metadata.generation, deployment.metadata.generation,
        "no pod is replaced"
    );

    gateways[0].report("hotConfigHash", json!(after));
    harness
        .assert_stays("one pod of two is not enough", "x", crate::harness::is_not_ready)
        .await;
    gateways[1].report("hotConfigHash", json!(after));
    harness.wait_for_status("Ready", "True").await;
}

#[requires(api_server)]
#[tokio::test]
async fn member_leaving_group_leaves_configuration() {
    let harness = Harness::start("leaves").await;
    harness.apply_group(&["time", "fetch"]).await;
    harness.apply_server(json!({})).await;
    let both = |hot: &ConfigMap| {
        hot.data.as_ref()?["backends.yaml"]
            .contains("fetch")
            .then_some(())
    };
    harness
        .wait_for("both members are configured", "vmcp-x-backends", both)
        .await;
    harness
        .apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": "fetch"},
            "spec": {"groupRef": {"name": "another-group"}, "url": "http://fetch:8000/mcp"},
        }))
        .await;
    let one = |hot: &ConfigMap| (!hot.data.as_ref()?["backends.yaml"].contains("fetch")).then_some(());
    harness
        .wait_for("one member has left", "vmcp-x-backends", one)
        .await;
    harness
        .api::<MCPServerEntry>()
        .delete("time", &DeleteParams::default())
        .await
        .unwrap();
    let none = |hot: &ConfigMap| (hot.data.as_ref()?["backends.yaml"] == "{}\n").then_some(());
    harness
        .wait_for("the other member is gone", "vmcp-x-backends", none)
        .await;
}

// A pod that does not load the configuration is nudged three times, and then no more.
#[requires(api_server)]
#[tokio::test]
async fn outdated_pod_is_nudged_three_times() {
    let harness = Harness::start("stubborn").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({})).await;
    let gateway = FakeGateway::start(&harness.status_token().await, "an-old-hash").await;
    harness.roll_out(&[&gateway]).await;
    let third = |pod: &Pod| annotation(pod)?.ends_with("again-2").then_some(());
    harness
        .wait_for("it is nudged a third time", &gateway.pod, third)
        .await;
    harness
        .wait_for_condition("Ready", "False", "ConfigPending")
        .await;
    let pod: Pod = harness.wait_for_object(&gateway.pod).await;
    let nudged = Instant::now();
    while nudged.elapsed() < NUDGE_WAIT {
        harness.reconcile().await;
    }
    // This reconcile begins when a fourth nudge would be due.
    harness.reconcile().await;
    let later: Pod = harness.wait_for_object(&gateway.pod).await;
    assert_eq!(later.resource_version(), pod.resource_version());
}

// If a gateway rejects the configuration, the condition contains its message.
#[requires(api_server)]
#[tokio::test]
async fn config_rejected_by_gateway_is_reported() {
    let harness = Harness::start("refused").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({})).await;
    let gateway = FakeGateway::start(&harness.status_token().await, "an-old-hash").await;
    gateway.report(
        "hotConfigError",
        json!("backends.yaml:2: at `backends[0].url`: no"),
    );
    harness.roll_out(&[&gateway]).await;
    harness
        .wait_for_conditions(&[
            ("ConfigValid", "False", "ConfigRefused"),
            ("Ready", "False", "ConfigRefused"),
        ])
        .await;
    gateway.report("hotConfigError", json!(null));
    gateway.report("hotConfigHash", json!(rendered_hash(&harness).await));
    harness
        .wait_for_condition("ConfigValid", "True", "ConfigValid")
        .await;
    harness.wait_for_status("Ready", "True").await;
}

// A configuration that is larger than a ConfigMap is split over several. Parts that are no longer needed are deleted.
#[requires(api_server)]
#[tokio::test]
async fn large_configuration_is_split_and_unused_parts_deleted() {
    let harness = Harness::start("split").await;
    harness.apply_group(&[]).await;
    let names: Vec<String> = (0..1000)
        .map(|number| format!("{number:0>4}{}", "x".repeat(200)))
        .collect();
    let large = |name: &str| {
        json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": name},
            "spec": {"groupRef": {"name": "group"}, "url": "http://large", "tools": {"allow": names, "deny": names}},
        })
    };
    for name in ["a", "b", "c", "d"] {
        harness.apply(&large(name)).await;
    }
    harness.apply_server(json!({})).await;
    let second: ConfigMap = harness.wait_for_object("vmcp-x-backends-1").await;
    assert!(second.data.unwrap().contains_key("backends.yaml.1"));
    let first: ConfigMap = harness.wait_for_object("vmcp-x-backends").await;
    assert!(first.data.unwrap()["backends.yaml"].starts_with("parts: {count: 2, hash: "));
    let deployment: Deployment = harness.wait_for_object("vmcp-x").await;
    let pod = deployment.spec.template.spec.unwrap();
    let volumes = pod.volumes.unwrap();
    let volume = volumes.iter().find(|volume| volume.name == "backends").unwrap();
    assert!(volume.projected.is_some());

    let entries = harness.api::<MCPServerEntry>();
    for name in ["b", "c", "d"] {
        entries.delete(name, &DeleteParams::default()).await.unwrap();
    }
    let config_maps = harness.api::<ConfigMap>();
    eventually("the second part is deleted", async || {
        let second = config_maps.get_opt("vmcp-x-backends-1").await.unwrap();
        second.is_none().then_some(())
    })
    .await;
    let whole = |hot: &ConfigMap| {
        hot.data.as_ref()?["backends.yaml"]
            .starts_with("backends:")
            .then_some(())
    };
    harness
        .wait_for("the first part is the whole", "vmcp-x-backends", whole)
        .await;
}
