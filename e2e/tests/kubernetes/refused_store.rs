//! A session store that refuses the gateways, or that they cannot reach: which pods become ready, and what the operator says.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_cluster::{Cluster, image};
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::wait;
use vmcp_external::requires;

use crate::support::{
    COUNTER, address, answers, apply_quick_start, get, install_charts, on_cluster, pod_list, pods, settled,
    workspace,
};

/// Time in which `kubectl describe` names a fault.
const NAMED: Duration = Duration::from_secs(30);
/// How long the stopped rollout is watched.
const STOPPED: Duration = Duration::from_secs(20);
/// How long a pod waits for a store that it cannot reach.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// A password that Redis does not accept. Nothing repeats it.
const REFUSED: &str = "refused-by-redis";

/// A rollout stops at the first pod that Redis refuses, and the old pods serve. `Ready` and `kubectl describe` say why. A store that cannot be
/// reached delays the pods, and does not keep them away.
#[requires(cluster, redis)]
#[test]
fn rollout_stops_at_first_pod_that_redis_refuses() -> anyhow::Result<()> {
    on_cluster(&[image::redis], story)
}

fn story(cluster: &Cluster) -> anyhow::Result<()> {
    install_charts(cluster, &workspace().join("charts"), &[])?;
    apply_quick_start(cluster)?;
    let applied = Instant::now();
    let nowhere = json!({"provider": "redis", "address": "nowhere.default.svc:6379"});
    apply_server(cluster, "nowhere", &nowhere)?;
    let stranger = json!({
        "provider": "redis", "address": "redis:6379", "username": "stranger",
        "passwordRef": {"name": "redis", "key": "password"},
    });
    apply_server(cluster, "stranger", &stranger)?;
    describes(
        cluster,
        "stranger",
        "the password of the user \"stranger\", or has no such user",
    )?;
    ensure!(ready_reason(cluster, "stranger")? == "SessionStoreUnavailable");
    ensure!(ready_pods(cluster, "stranger")?.is_empty());
    cluster.network().within(|| refused_password(cluster))??;
    unreachable_store(cluster, applied)?;
    ensure!(
        ready_pods(cluster, "stranger")?.is_empty(),
        "its store refuses it"
    );
    Ok(())
}

/// The Secret gets a password that Redis refuses, and later the right one again.
fn refused_password(cluster: &Cluster) -> anyhow::Result<()> {
    let before: BTreeSet<String> = settled(cluster, "demo", 2, "")?.into_keys().collect();
    let service = address(cluster, "vmcp-demo", 4483)?;
    answers(service)?;
    let session = Session::open(service)?;
    let mut count = 0;
    let mut serve = || -> anyhow::Result<()> {
        count += 1;
        let counted = session.call(service, COUNTER, &json!({}))?.tool_text()?;
        ensure!(counted == count.to_string(), "{counted}, and not {count}");
        let opened = http_client::initialize(service)?;
        ensure!(opened.status == 200, "{}", opened.text());
        Ok(())
    };
    serve()?;

    set_password(cluster, REFUSED)?;
    describes(cluster, "demo", "Redis says WRONGPASS")?;
    let rollout = ["rollout", "status", "deployment/vmcp-demo", "--timeout=1s"];
    let watched = Instant::now();
    while watched.elapsed() < STOPPED {
        serve()?;
        ensure!(cluster.kubectl(rollout).is_err(), "the rollout is complete");
        let all = pod_list(cluster, "demo")?.len();
        let ready = ready_pods(cluster, "demo")?;
        ensure!(all == 3 && ready == before, "{all} pods; ready: {ready:?}");
    }
    let message = condition_message(cluster, "demo", "Ready")?;
    ensure!(
        message.starts_with("waiting for 2 gateway pods: 1 updated, 2 available; ")
            && message.contains("cannot use Redis: Redis says WRONGPASS")
            && message.contains("check the password"),
        "{message}"
    );
    ensure!(condition_message(cluster, "demo", "SessionStorageReady")?.contains("Redis says WRONGPASS"));

    set_password(cluster, "change-me")?;
    wait::until(
        "the old pods are all that is left",
        Duration::from_secs(60),
        || {
            serve()?;
            let left: BTreeSet<String> = pods(cluster, "demo")?.into_iter().map(|(name, _)| name).collect();
            ensure!(left == before, "{left:?}");
            Ok(())
        },
    )?;
    settled(cluster, "demo", 2, "").map(drop)
}

/// The pod of a virtual server without a store becomes ready after a minute, and the virtual server does not.
fn unreachable_store(cluster: &Cluster, applied: Instant) -> anyhow::Result<()> {
    describes(
        cluster,
        "nowhere",
        "cannot use Redis: no such host as \"nowhere.default.svc\"",
    )?;
    let ready_after = wait::until("the pod is ready", MAX_WAIT * 2, || {
        std::thread::sleep(Duration::from_millis(250));
        ensure!(ready_pods(cluster, "nowhere")?.len() == 1, "it is not");
        Ok(applied.elapsed())
    })?;
    println!("ready after {:.1} s without a store", ready_after.as_secs_f32());
    // The pod says itself since when it is ready and since when it runs.
    let pod = pod_list(cluster, "nowhere")?.pop().context("no pod")?;
    let waited = waited(&pod)?;
    ensure!(waited >= MAX_WAIT, "ready after {waited:?}");
    wait::until("the server is not ready", NAMED, || {
        let reason = ready_reason(cluster, "nowhere")?;
        ensure!(reason == "SessionStoreUnavailable", "{reason}");
        Ok(())
    })
}

/// Time from the start of the container to the readiness of the pod. The times have a resolution of seconds.
fn waited(pod: &Value) -> anyhow::Result<Duration> {
    let time =
        |text: &Value| -> anyhow::Result<jiff::Timestamp> { Ok(text.as_str().context("no time")?.parse()?) };
    let conditions = pod["status"]["conditions"].as_array().context("no conditions")?;
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
    let ready = time(&ready.context("no condition Ready")?["lastTransitionTime"])?;
    let started = time(&pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"])?;
    let waited = Duration::try_from(ready.duration_since(started))?;
    Ok(waited + Duration::from_secs(1))
}

fn apply_server(cluster: &Cluster, name: &str, storage: &Value) -> anyhow::Result<()> {
    let server = json!({
        "apiVersion": "vmcp.dev/v1alpha1",
        "kind": "VirtualMCPServer",
        "metadata": {"name": name},
        "spec": {"groupRef": {"name": "tools"}, "replicas": 1, "sessionStorage": storage},
    });
    cluster.apply(&server.to_string())
}

fn set_password(cluster: &Cluster, password: &str) -> anyhow::Result<()> {
    let secret = json!({"stringData": {"password": password}}).to_string();
    cluster
        .kubectl(["patch", "secret/redis", "--type=merge", "-p", &secret])
        .map(drop)
}

/// Waits until `kubectl describe` shows these words, and no password.
fn describes(cluster: &Cluster, server: &str, words: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    wait::until("kubectl describe names the fault", NAMED, || {
        std::thread::sleep(Duration::from_millis(250));
        let described = cluster.kubectl(["describe", "vmcp", server])?;
        ensure!(!described.contains(REFUSED), "the password is told: {described}");
        // It breaks long lines.
        let described: Vec<&str> = described.split_whitespace().collect();
        ensure!(described.join(" ").contains(words), "{described:?}");
        Ok(())
    })?;
    println!(
        "{server}: {words:?} after {:.1} s",
        started.elapsed().as_secs_f32()
    );
    Ok(())
}

fn condition_message(cluster: &Cluster, server: &str, type_: &str) -> anyhow::Result<String> {
    let path = format!("{{.status.conditions[?(@.type==\"{type_}\")].message}}");
    get(cluster, &format!("vmcp/{server}"), &path)
}

fn ready_reason(cluster: &Cluster, server: &str) -> anyhow::Result<String> {
    let path = "{.status.conditions[?(@.type==\"Ready\")].reason}";
    get(cluster, &format!("vmcp/{server}"), path)
}

/// The names of the pods that are ready.
fn ready_pods(cluster: &Cluster, server: &str) -> anyhow::Result<BTreeSet<String>> {
    let is_ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    let pods = pod_list(cluster, server)?;
    let names = pods.iter().filter(is_ready).map(|pod| {
        let name = pod["metadata"]["name"].as_str();
        name.map(str::to_owned).context("no name")
    });
    names.collect()
}
