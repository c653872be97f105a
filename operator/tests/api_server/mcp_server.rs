//! Servers that the operator runs, as backends of the gateways.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value as Json, json};
use vmcp_crds::config::{BackendConfig, HotConfig};
use vmcp_crds::v1alpha1::{MCPGroup, MCPServer, ServerPhase, VirtualMCPServer};
use vmcp_external::requires;

use crate::fake_gateway::FakeGateway;
use crate::harness::{Harness, message_of};

/// Waits until the gateways of the virtual server `x` get exactly these backends, and returns them.
async fn wait_for_backends(harness: &Harness, expected: &[(&str, &[&str])]) -> Vec<BackendConfig> {
    let has = |hot: &ConfigMap| {
        let hot = HotConfig::parse(&hot.data.as_ref()?["backends.yaml"], "hot".as_ref()).ok()?;
        let found: Vec<(String, Vec<String>)> = hot
            .backends
            .iter()
            .map(|backend| {
                let addresses = backend.addresses.iter().map(ToString::to_string);
                (backend.name.clone(), addresses.collect())
            })
            .collect();
        let is_expected = found.len() == expected.len()
            && found
                .iter()
                .zip(expected)
                .all(|((name, addresses), (wanted, of))| name == wanted && addresses == of);
        is_expected.then_some(hot.backends)
    };
    let what = format!("the backends are {expected:?}");
    harness.wait_for(&what, "vmcp-x-backends", has).await
}

/// The message of the backend `name` in the status of the virtual server `x`, if it is left out.
async fn wait_for_left_out(harness: &Harness, name: &str, words: &str) {
    let says = |server: &VirtualMCPServer| {
        let backends = &server.status.as_ref()?.backends;
        let backend = backends.iter().find(|backend| backend.name == name)?;
        let message = backend.message.as_ref()?;
        message.contains(words).then_some(())
    };
    harness
        .wait_for(&format!("{name} is left out: {words}"), "x", says)
        .await;
}

// A server on standard input and output is one Deployment and one Service. It becomes a backend when a pod is ready, at the addresses of its
// ready pods, and stays one while no pod is.
#[requires(api_server)]
#[tokio::test]
async fn stdio_server_becomes_backend_when_pod_is_ready() {
    let harness = Harness::start("stdio").await;
    harness.apply_group(&["zoo"]).await;
    harness.apply_server(json!({})).await;
    let spec = json!({"image": "weather:1", "command": ["weather"], "replicas": 2, "prefix": "w-"});
    harness.apply_mcp_server("weather", spec).await;
    let waiting = harness
        .wait_for_server_condition("weather", "Ready", "False", "DeploymentProgressing")
        .await;
    let status = waiting.status.unwrap();
    assert_eq!((status.url, status.phase), (None, Some(ServerPhase::Pending)));
    wait_for_backends(&harness, &[("zoo", &[])]).await;

    let [first, second] = [(); 2].map(|()| FakeGateway::start("", "unused"));
    let bridges = [first.await, second.await];
    for bridge in &bridges {
        bridge.report(
            "backends",
            json!([{"name": "weather", "state": "ready", "tools": 3, "revision": "2025-06-18"}]),
        );
    }
    let addresses: Vec<&str> = bridges.iter().map(|bridge| bridge.address.as_str()).collect();
    harness.roll_out_server("weather", &addresses).await;
    let ready = harness
        .wait_for_server_condition("weather", "Ready", "True", "Serving")
        .await;
    assert_eq!(message_of(&ready, "Ready"), "2 pods ready");
    harness
        .wait_for_server_condition("weather", "Available", "True", "PodsReady")
        .await;
    harness
        .wait_for_server_condition("weather", "ConfigValid", "True", "ConfigValid")
        .await;
    let status = ready.status.unwrap();
    let url = format!("http://mcp-weather.{}.svc:8080/mcp", harness.namespace);
    assert_eq!(status.url.as_deref(), Some(url.as_str()));
    assert_eq!(status.phase, Some(ServerPhase::Ready));
    assert_eq!(
        (status.tools, status.revision.as_deref()),
        (Some(3), Some("2025-06-18"))
    );
    assert_eq!((status.replicas, status.ready_replicas), (Some(2), Some(2)));
    let backends = wait_for_backends(&harness, &[("weather", &addresses), ("zoo", &[])]).await;
    assert_eq!(
        (backends[0].url.as_str(), backends[0].prefix.as_deref()),
        (url.as_str(), Some("w-"))
    );

    // A pod that goes takes its address with it. The last one stays known while it is not ready.
    harness.roll_out_server("weather", &addresses[..1]).await;
    wait_for_backends(&harness, &[("weather", &addresses[..1]), ("zoo", &[])]).await;
    let not_ready = json!({"conditions": [{"type": "Ready", "status": "False"}]});
    harness.set_server_pod("mcp-weather-0", &not_ready).await;
    harness.start_server_pod("weather").await;
    harness
        .wait_for_server_condition("weather", "Available", "False", "NoPodReady")
        .await;
    wait_for_backends(&harness, &[("weather", &addresses[..1]), ("zoo", &[])]).await;

    let servers = harness.api::<MCPServer>();
    servers.delete("weather", &DeleteParams::default()).await.unwrap();
    wait_for_backends(&harness, &[("zoo", &[])]).await;
}

// While no pod has been ready, the status of the virtual server and of the group say why the server is left out. A server with zero replicas is
// left out, too.
#[requires(api_server)]
#[tokio::test]
async fn server_without_ready_pod_is_left_out_with_reason() {
    let harness = Harness::start("left-out").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness
        .apply_mcp_server("weather", json!({"npm": {"package": "weather"}}))
        .await;
    wait_for_left_out(
        &harness,
        "weather",
        "no pod has been ready yet (DeploymentProgressing)",
    )
    .await;
    let problem = |group: &MCPGroup| {
        let problem = group.status.as_ref()?.members.first()?.problem.clone()?;
        problem
            .starts_with("left out by VirtualMCPServer x: no pod has been ready yet")
            .then_some(())
    };
    harness.wait_for("the group says so", "group", problem).await;
    harness
        .wait_for_words("ConfigValid", "MCPServer weather: no pod")
        .await;

    harness.roll_out_server("weather", &["10.0.0.7"]).await;
    wait_for_backends(&harness, &[("weather", &["10.0.0.7"])]).await;
    harness
        .apply_mcp_server("weather", json!({"npm": {"package": "weather"}, "replicas": 0}))
        .await;
    wait_for_left_out(&harness, "weather", "spec.replicas is 0").await;
    harness.roll_out_server("weather", &[]).await;
    let stopped = harness
        .wait_for_server_condition("weather", "Ready", "True", "ScaledToZero")
        .await;
    assert_eq!(stopped.status.unwrap().phase, Some(ServerPhase::Stopped));
    wait_for_backends(&harness, &[]).await;
}

// A server is in every group whose selector matches its labels, as an entry is. An entry of the same name takes precedence, and the group says so.
#[requires(api_server)]
#[tokio::test]
async fn server_is_member_by_label_unless_entry_has_its_name() {
    let harness = Harness::start("labels").await;
    let group = |spec: Json| json!({"apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPGroup", "metadata": {"name": "group"}, "spec": spec});
    harness
        .apply(&group(json!({"selector": {"matchLabels": {"team": "a"}}})))
        .await;
    harness.apply_server(json!({})).await;
    let server = |labels: Json| {
        json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServer", "metadata": {"name": "weather", "labels": labels},
            "spec": {"npm": {"package": "weather"}},
        })
    };
    harness.apply(&server(json!({"team": "a"}))).await;
    harness.roll_out_server("weather", &["10.0.0.7"]).await;
    wait_for_backends(&harness, &[("weather", &["10.0.0.7"])]).await;
    harness.apply(&server(json!({"team": "b"}))).await;
    wait_for_backends(&harness, &[]).await;
    harness.apply(&server(json!({"team": "a"}))).await;
    wait_for_backends(&harness, &[("weather", &["10.0.0.7"])]).await;

    harness.apply_member("weather").await;
    let backends = wait_for_backends(&harness, &[("weather", &[])]).await;
    assert_eq!(backends[0].url, "http://weather:8000/mcp");
    let says = |group: &MCPGroup| {
        let ready = group.status.as_ref()?.conditions.first()?.clone();
        let expected = "members: 1; MCPServers without effect, because an MCPServerEntry of the group has the same name: weather";
        (ready.message == expected).then_some(())
    };
    harness
        .wait_for("the group names the server", "group", says)
        .await;
}

// A reconcile with nothing to do writes nothing, also while bridges are asked.
#[requires(api_server)]
#[tokio::test]
async fn settled_server_is_not_written_again() {
    let harness = Harness::start("server-idle").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let bridge = FakeGateway::start("", "unused").await;
    bridge.report(
        "backends",
        json!([{"name": "weather", "state": "ready", "tools": 3}]),
    );
    harness
        .apply_mcp_server("weather", json!({"npm": {"package": "weather"}}))
        .await;
    harness.roll_out_server("weather", &[&bridge.address]).await;
    harness
        .wait_for_server_condition("weather", "Ready", "True", "Serving")
        .await;
    harness.settle().await;
    let (writes, versions, asked) = (
        harness.write_count(),
        harness.versions().await,
        bridge.request_count(),
    );
    let servers = harness.api::<MCPServer>();
    for number in 0..3 {
        let patch = json!({"metadata": {"annotations": {"example.com/number": number.to_string()}}});
        servers
            .patch("weather", &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap();
        crate::harness::eventually("the bridge is asked", async || {
            (bridge.request_count() > asked + number).then_some(())
        })
        .await;
    }
    assert_eq!(harness.write_count(), writes, "requests that write");
    let without_server = |versions: Vec<String>| -> Vec<String> {
        versions
            .into_iter()
            .filter(|line| !line.starts_with("MCPServer "))
            .collect()
    };
    assert_eq!(without_server(harness.versions().await), without_server(versions));
}

// The number of tools of a server that speaks HTTP is what gateways have found.
#[requires(api_server)]
#[tokio::test]
async fn tools_of_http_server_come_from_gateways() {
    let harness = Harness::start("http-tools").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness
        .apply_mcp_server(
            "weather",
            json!({"image": "weather", "transport": "streamable-http"}),
        )
        .await;
    harness.roll_out_server("weather", &["10.0.0.7"]).await;
    wait_for_backends(&harness, &[("weather", &["10.0.0.7"])]).await;
    let token = harness.status_token().await;
    let gateway = FakeGateway::start(&token, &crate::hot_config::rendered_hash(&harness).await).await;
    gateway.report(
        "backends",
        json!([{"name": "weather", "state": "ready", "tools": 4}]),
    );
    harness.roll_out(&[&gateway]).await;
    harness.wait_for_status("Ready", "True").await;
    let has_tools = |server: &MCPServer| (server.status.as_ref()?.tools == Some(4)).then_some(());
    harness
        .wait_for("the tools are counted", "weather", has_tools)
        .await;
}

// The count of `kubectl scale` reaches the Deployment, and removing it keeps the present one.
#[requires(api_server)]
#[tokio::test]
async fn replicas_of_server_are_scaled_and_handed_over() {
    let harness = Harness::start("server-scale").await;
    let npm = json!({"npm": {"package": "weather"}});
    harness.apply_mcp_server("weather", npm.clone()).await;
    let has =
        |count: i32| move |deployment: &Deployment| (deployment.spec.replicas == Some(count)).then_some(());
    harness
        .wait_for("one pod by default", "mcp-weather", has(1))
        .await;
    let servers = harness.api::<MCPServer>();
    let scale = json!({"spec": {"replicas": 3}});
    servers
        .patch_scale("weather", &PatchParams::default(), &Patch::Merge(&scale))
        .await
        .unwrap();
    harness.wait_for("three pods", "mcp-weather", has(3)).await;
    let unset = json!({"spec": {"replicas": null}});
    servers
        .patch("weather", &PatchParams::default(), &Patch::Merge(&unset))
        .await
        .unwrap();
    harness
        .wait_for_server_condition("weather", "ConfigValid", "True", "ConfigValid")
        .await;
    harness
        .assert_stays("three pods", "mcp-weather", |deployment: &Deployment| {
            deployment.spec.replicas == Some(3)
        })
        .await;
}
