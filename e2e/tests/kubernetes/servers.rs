//! Servers that the operator runs: two that speak on standard input and output, behind bridges, and one that speaks HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_cluster::{Cluster, image};
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::load::{Load, Turn};
use vmcp_e2e::wait;
use vmcp_external::requires;

use crate::support::{
    address, answers, get, install_charts, is_ending, on_cluster, pods, pods_of, settled, workspace,
};

/// The counter of the server that speaks on standard input and output, as the gateway advertises it.
const COUNTER: &str = "counter_counter";
/// Sessions whose state the test follows.
const SESSIONS: usize = 12;
/// Time in which a gateway uses a server whose pod is ready.
const USED_WITHIN: Duration = Duration::from_secs(2);
/// Time for pods to start, and to end.
const LIMIT: Duration = Duration::from_secs(120);

/// Sessions spread over the pods of a server and stay there, whatever replaces the gateways; the loss of a pod costs one repair, and calls
/// without state none of it.
#[requires(cluster, redis, npm)]
#[test]
fn sessions_of_programs_spread_stay_and_are_repaired() -> anyhow::Result<()> {
    on_cluster(&[image::redis, image::everything], story)
}

fn story(cluster: &Cluster) -> anyhow::Result<()> {
    install_charts(cluster, &workspace().join("charts"), &[])?;
    let redis = std::fs::read_to_string(workspace().join("examples/quickstart/redis.yaml"))?;
    cluster.apply(&redis)?;
    cluster.apply(&objects())?;
    cluster.kubectl(["rollout", "status", "deployment/redis", "--timeout=60s"])?;
    for server in ["counter", "everything", "plain"] {
        ready(cluster, server)?;
    }
    settled(cluster, "demo", 2, "")?;
    cluster.network().within(|| {
        let service = address(cluster, "vmcp-demo", 4483)?;
        answers(service)?;
        all_are_offered(cluster)?;
        status_is_complete(cluster)?;
        new_server_is_used_at_once(cluster)?;
        let mut sessions = spread_sessions(cluster, service)?;
        gateways_are_replaced(cluster, service, &mut sessions)?;
        server_pod_is_deleted(cluster, service, &mut sessions)?;
        server_is_scaled_under_load(cluster, service)
    })?
}

/// Four short resources, and the virtual server.
fn objects() -> String {
    let server = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["groupRef"] = json!({"name": "tools"});
        json!({"apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServer", "metadata": {"name": name}, "spec": spec})
    };
    let objects = [
        json!({"apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPGroup", "metadata": {"name": "tools"}, "spec": {}}),
        server("counter", counter()),
        // An npm package in an image of its own.
        server(
            "everything",
            json!({
                "image": "vmcp.dev/everything:dev",
                "command": ["node", "/app/node_modules/.bin/mcp-server-everything"],
            }),
        ),
        server(
            "plain",
            json!({"image": "vmcp.dev/test-server:dev", "transport": "streamable-http"}),
        ),
        json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "metadata": {"name": "demo"},
            "spec": {
                "groupRef": {"name": "tools"}, "replicas": 2, "sessionAffinity": "None",
                "sessionStorage": {
                    "provider": "redis", "address": "redis:6379", "passwordRef": {"name": "redis", "key": "password"},
                },
            },
        }),
    ];
    objects.map(|object| object.to_string()).join("\n---\n")
}

fn counter() -> Value {
    json!({
        "image": "vmcp.dev/test-server:dev", "command": ["/usr/local/bin/vmcp-test-server", "--stdio"], "replicas": 2,
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
    })
}

fn ready(cluster: &Cluster, server: &str) -> anyhow::Result<()> {
    let object = format!("mcps/{server}");
    cluster
        .kubectl(["wait", "--for=condition=Ready", &object, "--timeout=120s"])
        .map(drop)
}

/// The running pods of an MCPServer by name, with their addresses.
fn server_pods(cluster: &Cluster, server: &str) -> anyhow::Result<BTreeMap<String, SocketAddr>> {
    let pods = pods_of(cluster, &format!("mcps/{server}"))?;
    let pods = pods.iter().filter(|pod| !is_ending(pod)).map(|pod| {
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        let address = pod["status"]["podIP"].as_str().context("no address yet")?;
        Ok((name.to_owned(), format!("{address}:9483").parse()?))
    });
    pods.collect()
}

/// The number of processes of the bridge with this admin address.
fn processes(admin: SocketAddr) -> anyhow::Result<u64> {
    let status = http_client::get(admin, "/status", &[])?;
    let status: Value = serde_json::from_slice(&status.body)?;
    let running = &status["backends"][0]["processes"]["running"];
    running.as_u64().with_context(|| format!("{status}"))
}

/// Each gateway pod offers the tools of all servers, and calls reach each.
fn all_are_offered(cluster: &Cluster) -> anyhow::Result<()> {
    for (_, gateway) in pods(cluster, "demo")? {
        let session = Session::open(gateway)?;
        wait::until("all servers are offered", LIMIT, || {
            let names = session.names(gateway, "tools/list")?;
            for tool in [COUNTER, "everything_echo", "plain_echo"] {
                ensure!(names.iter().any(|name| name == tool), "no {tool} in {names:?}");
            }
            Ok(())
        })?;
        for (tool, expected) in [("everything_echo", "Echo: hello"), ("plain_echo", "hello")] {
            let answer = session.call(gateway, tool, &json!({"message": "hello"}))?;
            ensure!(answer.tool_text()? == expected, "{}", answer.text());
        }
    }
    Ok(())
}

fn status_is_complete(cluster: &Cluster) -> anyhow::Result<()> {
    let status: Value = serde_json::from_str(&get(cluster, "mcps/counter", "{.status}")?)?;
    ensure!(
        status["url"] == "http://mcp-counter.default.svc:8080/mcp",
        "{status}"
    );
    ensure!(status["phase"] == "Ready" && status["replicas"] == 2, "{status}");
    ensure!(
        status["readyReplicas"] == 2 && status["restarts"] == 0,
        "{status}"
    );
    ensure!(
        status["addresses"].as_array().is_some_and(|all| all.len() == 2),
        "{status}"
    );
    wait::until("the operator has asked the bridges", LIMIT, || {
        for server in ["counter", "everything"] {
            let status = get(cluster, &format!("mcps/{server}"), "{.status}")?;
            let status: Value = serde_json::from_str(&status)?;
            let known =
                status["tools"].as_i64().is_some_and(|tools| tools > 5) && status["revision"].is_string();
            ensure!(known, "{status}");
        }
        Ok(())
    })?;
    println!("{}", cluster.kubectl(["get", "mcps", "-o", "wide"])?);
    Ok(())
}

/// Every gateway pod offers a new server soon after its pod is ready.
fn new_server_is_used_at_once(cluster: &Cluster) -> anyhow::Result<()> {
    let gateways = pods(cluster, "demo")?;
    let sessions = gateways
        .iter()
        .map(|(_, gateway)| Ok((*gateway, Session::open(*gateway)?)));
    let sessions = sessions.collect::<anyhow::Result<Vec<_>>>()?;
    let mut spec = counter();
    spec["groupRef"] = json!({"name": "tools"});
    spec["replicas"] = json!(1);
    let late = json!({
        "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServer", "metadata": {"name": "late"}, "spec": spec,
    });
    cluster.apply(&late.to_string())?;
    let ready = "jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
    let labels = ["-l", "app.kubernetes.io/instance=late"];
    wait::until("the pod is ready", LIMIT, || {
        let pods = cluster.kubectl(["get", "pods", "-o", ready].iter().chain(&labels))?;
        ensure!(pods == "True", "{pods:?}");
        Ok(())
    })?;
    let since = Instant::now();
    wait::until("each gateway offers the new server", LIMIT, || {
        for (gateway, session) in &sessions {
            let names = session.names(*gateway, "tools/list")?;
            ensure!(names.iter().any(|name| name == "late_echo"), "{names:?}");
        }
        Ok(())
    })?;
    println!(
        "the gateways offered the new server {:.2} s after its pod was ready",
        since.elapsed().as_secs_f32()
    );
    ensure!(since.elapsed() < USED_WITHIN, "{:?}", since.elapsed());
    cluster
        .kubectl(["delete", "mcps", "late", "--wait=false"])
        .map(drop)
}

/// Opens sessions, each with a process in one of the two pods, and calls each often: none changes its process.
fn spread_sessions(cluster: &Cluster, service: SocketAddr) -> anyhow::Result<Vec<(Session, u64)>> {
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push((Session::open(service)?, 0));
    }
    for _ in 0..3 {
        call_all(service, &mut sessions)?;
    }
    for (name, admin) in server_pods(cluster, "counter")? {
        let processes = processes(admin)?;
        println!("{name} runs {processes} processes");
        // Half of the sessions, less what chance does.
        ensure!(processes as usize > SESSIONS / 6, "{name} runs {processes}");
    }
    Ok(sessions)
}

/// Each session calls once, and its count goes on.
fn call_all(service: SocketAddr, sessions: &mut [(Session, u64)]) -> anyhow::Result<()> {
    for (session, count) in sessions {
        let answer = session.call(service, COUNTER, &json!({}))?.tool_text()?;
        *count += 1;
        ensure!(answer == count.to_string(), "{answer}, and not {count}");
    }
    Ok(())
}

/// All gateway pods are deleted at once; each session goes on in its process.
fn gateways_are_replaced(
    cluster: &Cluster,
    service: SocketAddr,
    sessions: &mut [(Session, u64)],
) -> anyhow::Result<()> {
    let before = pods(cluster, "demo")?;
    let mut delete = vec!["delete", "pod", "--now"];
    delete.extend(before.iter().map(|(name, _)| name.as_str()));
    cluster.kubectl(delete)?;
    wait::until("two other pods", LIMIT, || {
        let now = pods(cluster, "demo")?;
        ensure!(
            now.len() == 2 && now.iter().all(|pod| !before.contains(pod)),
            "{now:?}"
        );
        Ok(())
    })?;
    settled(cluster, "demo", 2, "")?;
    answers(service)?;
    call_all(service, sessions)
}

/// A pod of the server is killed. Sessions of the other pod go on, and those of this one begin again with the next call, which is answered.
fn server_pod_is_deleted(
    cluster: &Cluster,
    service: SocketAddr,
    sessions: &mut [(Session, u64)],
) -> anyhow::Result<()> {
    let before = server_pods(cluster, "counter")?;
    let (lost, _) = before.first_key_value().context("a pod")?;
    cluster.kubectl(["delete", "pod", lost, "--now"])?;
    let mut repaired = 0;
    for (session, count) in &mut *sessions {
        let answer = session.call(service, COUNTER, &json!({}))?.tool_text()?;
        if answer == "1" {
            (*count, repaired) = (1, repaired + 1);
        } else {
            *count += 1;
            ensure!(answer == count.to_string(), "{answer}, and not {count}");
        }
    }
    println!("{repaired} of {SESSIONS} sessions began again in the other pod");
    ensure!(repaired > 0 && repaired < SESSIONS, "{repaired}");
    call_all(service, sessions)?;
    ready(cluster, "counter")
}

/// No call without state fails while the server is scaled.
fn server_is_scaled_under_load(cluster: &Cluster, service: SocketAddr) -> anyhow::Result<()> {
    let load = Load::start(8, Duration::from_millis(100), |worker| {
        let session = Session::open(service);
        Box::new(move |turn| match &session {
            Ok(session) => {
                let message = format!("{worker}-{turn}");
                let answer = session
                    .call(service, "counter_echo", &json!({"message": message}))?
                    .tool_text()?;
                ensure!(answer == message, "{answer}");
                Ok(())
            }
            Err(error) => anyhow::bail!("{error:#}"),
        }) as Turn
    });
    for replicas in [1, 3, 1] {
        cluster.kubectl(["scale", "mcps/counter", &format!("--replicas={replicas}")])?;
        wait::until("the pods are scaled", LIMIT, || {
            let pods = pods_of(cluster, "mcps/counter")?;
            let ready = get(cluster, "mcps/counter", "{.status.readyReplicas}")?;
            ensure!(pods.len() == replicas && ready == replicas.to_string(), "{ready}");
            Ok(())
        })?;
        load.go_on_for(80)?;
    }
    let report = load.finish();
    println!("{} calls while the server was scaled", report.done.len());
    report.without_failure()
}
