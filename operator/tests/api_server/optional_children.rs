//! Children whose kind a cluster may not have: their failures, and who writes them.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value as Json, json};
use vmcp_cluster::ApiServer;
use vmcp_crds::status::config_hash;
use vmcp_external::requires;
use vmcp_operator::desired::labels;
use vmcp_operator::optional_kinds::{HTTPRoute, ServiceMonitor};

use crate::endpoint::{definition, message_of};
use crate::failing_writes::{create_webhook, dry_run};
use crate::fake_gateway::FakeGateway;
use crate::harness::{Harness, eventually};
use crate::hot_config::rendered_hash;

fn with_route_and_monitor() -> Json {
    json!({
        "httpRoute": {"parentRefs": [{"name": "public"}], "hostnames": ["tools.example.com"]},
        "serviceMonitor": {},
    })
}

/// A virtual server that serves, and the kinds HTTPRoute and ServiceMonitor.
async fn start_serving(server: &ApiServer) -> (Harness, FakeGateway) {
    let definitions =
        tokio::task::spawn_blocking(|| [definition("httproutes.yaml"), definition("servicemonitors.yaml")]);
    let mut harness = Harness::on(server, "optional").await;
    for definition in definitions.await.unwrap() {
        harness.apply_cluster(&definition).await;
    }
    eventually("the kinds are served", async || {
        server.kubectl(["get", "httproutes,servicemonitors", "-A"]).ok()
    })
    .await;
    harness.start_operator().await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let gateway = FakeGateway::start(&harness.status_token().await, &rendered_hash(&harness).await).await;
    harness.roll_out(&[&gateway]).await;
    harness.wait_for_condition("Ready", "True", "Serving").await;
    (harness, gateway)
}

// A 500 for a route has its own condition: the endpoint is served, and the ServiceMonitor is applied. Both have the mark of this installation, and what
// others write into a route is undone and reported.
#[requires(api_server)]
#[tokio::test]
async fn failing_route_leaves_ready_and_monitor_alone() {
    let server = tokio::task::spawn_blocking(|| ApiServer::start().unwrap())
        .await
        .unwrap();
    let (mut harness, gateway) = start_serving(&server).await;
    let routes = harness.api::<HTTPRoute>();
    let any = Patch::Apply(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "any"}, "spec": {},
    }));
    let asks = PatchParams {
        field_manager: Some("user".to_owned()),
        ..dry_run()
    };
    create_webhook(&harness, "gateway.networking.k8s.io", "httproutes", async || {
        routes.patch("any", &asks, &any).await
    })
    .await;
    let before = rendered_hash(&harness).await;
    harness.apply_server(with_route_and_monitor()).await;
    // The host name of the route is part of the hot configuration.
    let changed = |hot: &ConfigMap| {
        let hash = config_hash(&hot.data.as_ref()?["backends.yaml"]);
        (hash != before).then_some(hash)
    };
    let after = harness
        .wait_for("the ConfigMap has the host name", "vmcp-x-backends", changed)
        .await;
    gateway.report("hotConfigHash", json!(after));
    let message = message_of(&harness, "HTTPRouteReady", "False", "ApplyFailed").await;
    assert!(
        message.contains("cannot apply HTTPRoute")
            && message.contains("down.example.com")
            && message.ends_with("tries again within 30 seconds"),
        "{message}"
    );
    message_of(&harness, "ServiceMonitorReady", "True", "Applied").await;
    harness.wait_for_condition("Ready", "True", "Serving").await;

    server
        .kubectl(["delete", "validatingwebhookconfiguration", &harness.namespace])
        .unwrap();
    message_of(&harness, "HTTPRouteReady", "Unknown", "Pending").await;
    let mark = "vmcp-system/vmcp-operator";
    let route: HTTPRoute = harness.wait_for_object("vmcp-x").await;
    assert_eq!(route.annotations()[labels::INSTALLATION], mark);
    let monitor: ServiceMonitor = harness.wait_for_object("vmcp-x").await;
    assert_eq!(monitor.annotations()[labels::INSTALLATION], mark);

    let monitors = harness.api::<ServiceMonitor>();
    let any = Patch::Apply(json!({
        "apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {"name": "any"},
        "spec": {"selector": {}, "endpoints": []},
    }));
    create_webhook(&harness, "monitoring.coreos.com", "servicemonitors", async || {
        monitors.patch("any", &asks, &any).await
    })
    .await;
    let mut labelled = with_route_and_monitor();
    labelled["serviceMonitor"] = json!({"labels": {"team": "a"}});
    harness.apply_server(labelled).await;
    message_of(&harness, "ServiceMonitorReady", "False", "ApplyFailed").await;
    harness.wait_for_condition("Ready", "True", "Serving").await;
    server
        .kubectl(["delete", "validatingwebhookconfiguration", &harness.namespace])
        .unwrap();
    message_of(&harness, "ServiceMonitorReady", "True", "Applied").await;

    let has_own_host =
        |route: &HTTPRoute| (route.spec.hostnames == ["tools.example.com"]).then_some(route.clone());
    let mut edit = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "vmcp-x"},
        "spec": {"hostnames": ["edited.example.com"]},
    });
    harness.apply(&edit).await;
    let route = harness
        .wait_for("the host name is set back", "vmcp-x", has_own_host)
        .await;
    let events = harness.api::<Event>();
    let expected = "HTTPRoute vmcp-x: a change by user of spec.hostnames was undone; set spec.httpRoute of the VirtualMCPServer instead";
    eventually("an Event names the field", async || {
        let list = events.list(&ListParams::default()).await.unwrap();
        let says = |event: &Event| event.note.as_deref() == Some(expected);
        list.items.iter().any(says).then_some(())
    })
    .await;

    // Another installation writes under the same name.
    edit["metadata"] = json!({
        "name": "vmcp-x", "labels": route.labels(), "ownerReferences": route.metadata.owner_references,
        "annotations": {labels::INSTALLATION: "team-a/another"},
    });
    let theirs = PatchParams::apply("vmcp-operator").force();
    routes
        .patch("vmcp-x", &theirs, &Patch::Apply(&edit))
        .await
        .unwrap();
    harness
        .wait_for("the host name is set back", "vmcp-x", has_own_host)
        .await;
    harness
        .wait_for_condition("Stalled", "True", "OtherInstallation")
        .await;
    harness.stop_operator().await;
}
