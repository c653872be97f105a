//! No call fails and no session ends while the pods of a virtual server are replaced, scaled, moved and reconfigured.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_cluster::{Cluster, image};
use vmcp_e2e::http_client::Session;
use vmcp_e2e::wait;
use vmcp_external::requires;

use crate::support::{
    COUNTER, address, answers, apply_quick_start, get, install_charts, on_cluster, patch_demo, pods, settled,
    workspace,
};
use crate::traffic::Traffic;

/// Time in which running pods take a change.
const HOT: Duration = Duration::from_secs(2);

type Pods = BTreeMap<String, String>;

/// Under 100 calls a second and with open streams, no call fails, no event is lost and every session goes on, whatever replaces the pods.
#[requires(cluster, redis)]
#[test]
fn no_call_fails_while_pods_are_replaced_scaled_or_moved() -> anyhow::Result<()> {
    on_cluster(&[image::redis], story)
}

fn story(cluster: &Cluster) -> anyhow::Result<()> {
    install_charts(cluster, &workspace().join("charts"), &[])?;
    apply_secret(cluster, "one")?;
    apply_quick_start(cluster)?;
    // The pods are replaced, because the entry names a Secret.
    let before = settled(cluster, "demo", 2, NAME)?;
    apply_counter(cluster, &json!({}))?;
    replaced(cluster, &before, 2)?;
    cluster.network().within(|| {
        let traffic = Traffic::start(cluster)?;
        traffic.during("pod template", || pod_template(cluster))?;
        traffic.during("hot configuration", || hot_configuration(cluster))?;
        traffic.during("value of a header", || header_value(cluster))?;
        traffic.during("password of Redis", || redis_password(cluster))?;
        traffic.during("kubectl scale", || scale(cluster))?;
        traffic.during("autoscaler", || autoscaler(cluster))?;
        for node in ["node1", "node2"] {
            traffic.during(&format!("kubectl drain {node}"), || drain(cluster, node))?;
        }
        traffic.finish()?;
        scale_to_zero(cluster)
    })?
}

/// Where a pod has its name.
const NAME: &str = "/metadata/name";
/// Where a pod has its node.
const NODE: &str = "/spec/nodeName";

/// The pods of `demo` after a change: `count`, and none of `before`.
fn replaced(cluster: &Cluster, before: &Pods, count: usize) -> anyhow::Result<()> {
    wait::until("the first new pod", Duration::from_secs(30), || {
        let now = pods(cluster, "demo")?;
        ensure!(now.iter().any(|(name, _)| !before.contains_key(name)), "{now:?}");
        Ok(())
    })?;
    let after = settled(cluster, "demo", count, NAME)?;
    ensure!(
        after.keys().all(|name| !before.contains_key(name)),
        "pods were not replaced: {before:?}, {after:?}"
    );
    Ok(())
}

fn pod_template(cluster: &Cluster) -> anyhow::Result<()> {
    let before = settled(cluster, "demo", 2, NAME)?;
    let annotations = json!({"metadata": {"annotations": {"example.com/restarted": "once"}}});
    patch_demo(cluster, &json!({"podTemplate": annotations}))?;
    replaced(cluster, &before, 2)
}

/// Running pods take changed settings of the virtual server, and of a backend.
fn hot_configuration(cluster: &Cluster) -> anyhow::Result<()> {
    let before = settled(cluster, "demo", 2, NAME)?;
    patch_demo(
        cluster,
        &json!({"limits": {"requestsInFlightPerSession": 100}, "operational": {"accessLog": {"sample": 0.01}}}),
    )?;
    settled(cluster, "demo", 2, NAME)?;
    apply_counter(cluster, &json!({"overrides": {"echo": {"name": "say"}}}))?;
    let started = Instant::now();
    each_pod_serves(cluster, "counter_say", &json!({"message": "x"}), |answer| {
        answer == "x"
    })?;
    ensure!(started.elapsed() < HOT, "{:?}", started.elapsed());
    unchanged(cluster, &before)
}

/// Running pods send a changed header.
fn header_value(cluster: &Cluster) -> anyhow::Result<()> {
    let before = settled(cluster, "demo", 2, NAME)?;
    apply_secret(cluster, "two")?;
    let started = Instant::now();
    each_pod_serves(cluster, "counter_whoami", &json!({}), |answer| {
        let answer: Value = serde_json::from_str(answer).unwrap_or_default();
        answer["headers"]["x-token"] == "two"
    })?;
    ensure!(started.elapsed() < HOT, "{:?}", started.elapsed());
    unchanged(cluster, &before)
}

/// The pods are replaced when the password of Redis changes. Redis accepts both passwords meanwhile, and only the new one afterwards.
fn redis_password(cluster: &Cluster) -> anyhow::Result<()> {
    let before = settled(cluster, "demo", 2, NAME)?;
    let cli = |rule: &str| {
        let redis = ["exec", "deployment/redis", "--", "redis-cli", "-a", "change-me"];
        cluster.kubectl(redis.iter().chain(&["ACL", "SETUSER", "default", rule]))
    };
    cli(">changed")?;
    let secret = json!({"stringData": {"password": "changed"}}).to_string();
    cluster.kubectl(["patch", "secret/redis", "--type=merge", "-p", &secret])?;
    replaced(cluster, &before, 2)?;
    cli("<change-me").map(drop)
}

fn scale(cluster: &Cluster) -> anyhow::Result<()> {
    for count in [3, 1, 3] {
        cluster.kubectl(["scale", "vmcp/demo", &format!("--replicas={count}")])?;
        settled(cluster, "demo", count, NAME)?;
    }
    patch_demo(cluster, &json!({"replicas": 2}))?;
    settled(cluster, "demo", 2, NAME).map(drop)
}

/// An autoscaler without metrics only keeps the number of pods within its bounds.
fn autoscaler(cluster: &Cluster) -> anyhow::Result<()> {
    for count in [3, 2] {
        let bounds = json!({"minReplicas": count, "maxReplicas": count});
        patch_demo(cluster, &json!({"replicas": null, "autoscaling": bounds}))?;
        settled(cluster, "demo", count, NAME)?;
    }
    patch_demo(cluster, &json!({"replicas": 2, "autoscaling": null}))?;
    settled(cluster, "demo", 2, NAME).map(drop)
}

/// The gateways and the operator leave a node, and may come back.
fn drain(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    let pods = "--pod-selector=app.kubernetes.io/part-of=vmcp";
    cluster.kubectl(["drain", node, "--delete-emptydir-data", pods, "--timeout=120s"])?;
    let after = settled(cluster, "demo", 2, NODE)?;
    ensure!(after.values().all(|other| other != node), "{after:?}");
    cluster.kubectl(["uncordon", node]).map(drop)
}

/// A session continues after a scale to zero and back. Meanwhile `Ready` has the reason `ScaledToZero`.
fn scale_to_zero(cluster: &Cluster) -> anyhow::Result<()> {
    let service = address(cluster, "vmcp-demo", 4483)?;
    let session = Session::open(service)?;
    let call = || session.call(service, COUNTER, &json!({}))?.tool_text();
    ensure!(call()? == "1");
    cluster.kubectl(["scale", "vmcp/demo", "--replicas=0"])?;
    wait::until("no pod", Duration::from_secs(60), || {
        let running = pods(cluster, "demo")?;
        let reason = get(
            cluster,
            "vmcp/demo",
            "{.status.conditions[?(@.type==\"Ready\")].reason}",
        )?;
        ensure!(
            running.is_empty() && reason == "ScaledToZero",
            "{reason}: {running:?}"
        );
        Ok(())
    })?;
    cluster.kubectl(["scale", "vmcp/demo", "--replicas=2"])?;
    settled(cluster, "demo", 2, NAME)?;
    answers(service)?;
    let count = call()?;
    ensure!(count == "2", "{count}");
    Ok(())
}

/// Calls a tool on each pod until `expect` accepts all results.
fn each_pod_serves(
    cluster: &Cluster,
    tool: &str,
    arguments: &Value,
    expect: impl Fn(&str) -> bool,
) -> anyhow::Result<()> {
    let running = pods(cluster, "demo")?;
    wait::until(tool, Duration::from_secs(30), || {
        for (_, address) in &running {
            let answer = Session::open(*address)?
                .call(*address, tool, arguments)?
                .tool_text()?;
            ensure!(expect(&answer), "{answer}");
        }
        Ok(())
    })
}

/// The same pods run as before, and none of their containers was restarted.
fn unchanged(cluster: &Cluster, before: &Pods) -> anyhow::Result<()> {
    let after = settled(cluster, "demo", before.len(), NAME)?;
    ensure!(after == *before, "pods were replaced: {before:?}, {after:?}");
    let selector = get(cluster, "vmcp/demo", "{.status.selector}").context("selector")?;
    let restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    let restarts = cluster.kubectl(["get", "pods", "-l", &selector, "-o", restarts])?;
    ensure!(
        restarts.split_whitespace().all(|count| count == "0"),
        "a container was restarted: {restarts}"
    );
    Ok(())
}

/// The backend `counter`, with a header from a Secret.
fn apply_counter(cluster: &Cluster, tools: &Value) -> anyhow::Result<()> {
    let entry = json!({
        "apiVersion": "vmcp.dev/v1alpha1",
        "kind": "MCPServerEntry",
        "metadata": {"name": "counter"},
        "spec": {
            "groupRef": {"name": "tools"}, "url": "http://counter:8080/mcp", "tools": tools,
            "headers": {"X-Token": {"secretKeyRef": {"name": "counter", "key": "token"}}},
        },
    });
    cluster.apply(&entry.to_string())
}

fn apply_secret(cluster: &Cluster, token: &str) -> anyhow::Result<()> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "counter"}, "stringData": {"token": token},
    });
    cluster.apply(&secret.to_string())
}
