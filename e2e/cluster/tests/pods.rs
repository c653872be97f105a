//! Tests that pods in a cluster behave as on separate machines.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use support::{eventually, exclusive};
use vmcp_cluster::{Cluster, Options, image};
use vmcp_external::requires;

/// Redis on each node with a Service, with the same security settings as the gateway.
const REDIS: &str = include_str!("redis.yaml");

fn with_redis() -> Cluster {
    let images = tempfile::tempdir().unwrap();
    let archive = image::redis(images.path()).unwrap();
    let cluster = Cluster::up(&Options::default()).unwrap();
    cluster.load_image(&archive).unwrap();
    cluster.apply(REDIS).unwrap();
    cluster
        .kubectl(["rollout", "status", "deployment/redis", "--timeout=60s"])
        .unwrap();
    cluster
}

/// The nodes of the Redis pods.
fn nodes_of_redis(cluster: &Cluster) -> Vec<String> {
    let path = "jsonpath={.items[*].spec.nodeName}";
    let nodes = cluster
        .kubectl(["get", "pods", "-l", "app=redis", "-o", path])
        .unwrap();
    nodes.split_whitespace().map(str::to_owned).collect()
}

/// Sends PING to Redis from this process through the Service.
fn ping(cluster: &Cluster, address: &str) -> anyhow::Result<()> {
    let mut connection = cluster.network().connect(format!("{address}:6379").parse()?)?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    connection.read_exact(&mut answer)?;
    anyhow::ensure!(&answer == b"+PONG\r\n", "unexpected response");
    Ok(())
}

/// Waits until all connections to the Service are answered. The nodes need up to a second to learn of the Service's pods.
fn wait_until_reachable(cluster: &Cluster, address: &str) {
    eventually("20 answers in a row", Duration::from_secs(60), || {
        (0..20).all(|_| ping(cluster, address).is_ok())
    });
}

fn service_address(cluster: &Cluster) -> String {
    cluster
        .kubectl(["get", "service", "redis", "-o", "jsonpath={.spec.clusterIP}"])
        .unwrap()
}

#[requires(cluster)]
#[test]
fn pods_on_two_nodes_are_one_service() {
    let _exclusive = exclusive();
    let cluster = with_redis();

    let mut nodes = nodes_of_redis(&cluster);
    nodes.sort();
    assert_eq!(nodes, ["node1", "node2"]);

    // From the test by address. Both pods respond, so both nodes are reachable.
    let address = service_address(&cluster);
    wait_until_reachable(&cluster, &address);
    // From each pod, by name, to the pod on the other node.
    for (pod, peer) in pods_and_addresses(&cluster) {
        let by_name = [
            "exec",
            &pod,
            "--",
            "redis-cli",
            "-h",
            "redis.default.svc.cluster.local",
            "PING",
        ];
        eventually("an answer by name", Duration::from_secs(60), || {
            cluster
                .kubectl(by_name)
                .is_ok_and(|answer| answer.trim() == "PONG")
        });
        let across = ["exec", &pod, "--", "redis-cli", "-h", &peer, "PING"];
        assert_eq!(cluster.kubectl(across).unwrap().trim(), "PONG");
        assert!(
            cluster
                .kubectl(["logs", &pod])
                .unwrap()
                .contains("Ready to accept connections")
        );
    }
    // The memory limit of a pod is enforced.
    let eval = ["redis-cli", "eval", "return string.rep('x', 300000000)", "0"];
    cluster
        .kubectl(["exec", "deployment/redis", "--"].iter().chain(&eval))
        .unwrap_err();
    let reason = "jsonpath={.items[*].status.containerStatuses[0].lastState.terminated.reason}";
    eventually("a pod that used too much memory", Duration::from_secs(60), || {
        cluster
            .kubectl(["get", "pods", "-l", "app=redis", "-o", reason])
            .unwrap()
            == "OOMKilled"
    });
}

/// Each pod with the address of the other.
fn pods_and_addresses(cluster: &Cluster) -> Vec<(String, String)> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}";
    let lines = cluster
        .kubectl(["get", "pods", "-l", "app=redis", "-o", path])
        .unwrap();
    let pods: Vec<_> = lines.lines().filter_map(|line| line.split_once(' ')).collect();
    let addresses = pods.iter().rev().map(|(_, address)| (*address).to_owned());
    pods.iter()
        .map(|(name, _)| (*name).to_owned())
        .zip(addresses)
        .collect()
}

#[requires(cluster)]
#[test]
fn node_drain_does_not_interrupt_the_service() {
    let _exclusive = exclusive();
    let cluster = with_redis();
    let address = service_address(&cluster);
    let drain = [
        "drain",
        "node1",
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--timeout=60s",
    ];
    cluster.kubectl(drain).unwrap();
    cluster
        .kubectl(["rollout", "status", "deployment/redis", "--timeout=60s"])
        .unwrap();
    eventually("all pods on node2", Duration::from_secs(60), || {
        nodes_of_redis(&cluster) == ["node2", "node2"]
    });
    wait_until_reachable(&cluster, &address);
}

#[requires(cluster)]
#[test]
fn lost_node_is_removed_from_the_service() {
    let _exclusive = exclusive();
    let cluster = with_redis();
    let address = service_address(&cluster);
    cluster.kill_node(2).unwrap();
    assert!(cluster.kill_node(2).is_err(), "a dead node was killed again");
    cluster
        .kubectl([
            "wait",
            "--for=condition=Ready=Unknown",
            "node/node2",
            "--timeout=60s",
        ])
        .unwrap();
    // Kubernetes sends connections to the dead node until its endpoint is removed.
    let ready = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].nodeName}";
    let endpoints = [
        "get",
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=redis",
        "-o",
        ready,
    ];
    eventually("one endpoint", Duration::from_secs(60), || {
        cluster.kubectl(endpoints).unwrap() == "node1"
    });
    wait_until_reachable(&cluster, &address);
}

#[requires(cluster)]
#[test]
fn helm_installs_a_chart() {
    let _exclusive = exclusive();
    let chart = tempfile::tempdir().unwrap();
    std::fs::write(
        chart.path().join("Chart.yaml"),
        "apiVersion: v2\nname: demo\nversion: 0.1.0\n",
    )
    .unwrap();
    std::fs::create_dir(chart.path().join("templates")).unwrap();
    let template = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: demo }\ndata: { greeting: {{ .Values.greeting }} }\n";
    std::fs::write(chart.path().join("templates/greeting.yaml"), template).unwrap();
    let cluster = Cluster::up(&Options {
        nodes: 1,
        ..Options::default()
    })
    .unwrap();
    let path = chart.path().to_str().unwrap();
    cluster
        .helm(["install", "demo", path, "--set", "greeting=hello", "--wait"])
        .unwrap();
    let greeting = ["get", "configmap", "demo", "-o", "jsonpath={.data.greeting}"];
    assert_eq!(cluster.kubectl(greeting).unwrap(), "hello");
}

#[requires(cluster)]
#[test]
fn third_party_server_runs_in_a_pod() {
    let _exclusive = exclusive();
    let images = tempfile::tempdir().unwrap();
    let archive = image::everything(images.path()).unwrap();
    let cluster = Cluster::up(&Options {
        nodes: 1,
        ..Options::default()
    })
    .unwrap();
    cluster.load_image(&archive).unwrap();
    cluster
        .kubectl(["run", "everything", "--image=vmcp.dev/everything:dev"])
        .unwrap();
    cluster
        .kubectl(["wait", "--for=condition=Ready", "pod/everything", "--timeout=60s"])
        .unwrap();
    let address = cluster
        .kubectl(["get", "pod", "everything", "-o", "jsonpath={.status.podIP}"])
        .unwrap();
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#;
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: everything\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = String::new();
    eventually("an answer", Duration::from_secs(60), || {
        let Ok(mut connection) = cluster
            .network()
            .connect(format!("{address}:3001").parse().unwrap())
        else {
            return false;
        };
        answer.clear();
        connection.write_all(request.as_bytes()).unwrap();
        connection.read_to_string(&mut answer).is_ok()
    });
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("serverInfo"), "{answer}");
}
