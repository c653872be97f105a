//! An operator that starts beside a thousand virtual servers that it has never seen.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use serde_json::{Value as Json, json};
use vmcp_cluster::ApiServer;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::process::Process;
use vmcp_external::requires;

use crate::harness::{Harness, OPERATOR, eventually};
use crate::process::{admin_address, request};
use crate::requests::accesses;

const NAMESPACES: usize = 10;
const SERVERS_PER_NAMESPACE: usize = 100;
const SERVERS: usize = NAMESPACES * SERVERS_PER_NAMESPACE;
/// The names of the members of each group.
const MEMBERS: [&str; 5] = ["time", "weather", "news", "mail", "files"];
/// How long the operator may take for all of them.
const LIMIT: Duration = Duration::from_secs(60);
/// The anonymous memory that the process may use at most.
const MAX_MEMORY_KIB: u64 = 150 * 1024;

/// Creates the namespaces with a group and the virtual servers in each.
async fn create_all(harness: &mut Harness) {
    let own = harness.namespace.clone();
    for number in 0..NAMESPACES {
        harness.namespace = format!("{own}-{number}");
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": harness.namespace}});
        harness.apply_cluster(&namespace).await;
        harness.apply_group(&MEMBERS).await;
        let server = |number: usize| {
            json!({
                "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "metadata": {"name": format!("x{number}")},
                "spec": {"groupRef": {"name": "group"}},
            })
        };
        let servers: Vec<Json> = (0..SERVERS_PER_NAMESPACE).map(server).collect();
        futures::stream::iter(&servers)
            .for_each_concurrent(8, |server| harness.apply(server))
            .await;
    }
    harness.namespace = own;
    let group = "rbac.authorization.k8s.io";
    harness
        .apply_cluster(&json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "operator"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "operator"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": OPERATOR}],
        }))
        .await;
}

/// Starts the operator, and returns the address of its admin port.
async fn start(command: &Command) -> (Process, String) {
    let operator = Process::start("operator", command).unwrap();
    let address = eventually("the log contains the admin address", async || {
        admin_address(&operator)
    })
    .await;
    (operator, address)
}

/// The value of a metric of the operator.
async fn metric(address: &str, name: &str) -> usize {
    let (_, metrics) = request(address, "metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

/// Peak of the anonymous memory of the process, in KiB: the peak of all memory without the mapped files, which are the program. Those of a debug
/// build are many times as large as those of an image, and the kernel gives them back when the memory of a pod is full.
fn peak_anonymous_memory(operator: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.id())).unwrap();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    kib("VmHWM:") - kib("RssFile:")
}

/// The number of virtual servers with a status of their current generation.
async fn current_statuses(servers: &kube::Api<VirtualMCPServer>) -> usize {
    let servers = servers.list(&ListParams::default()).await.unwrap().items;
    let is_current = |server: &&VirtualMCPServer| {
        let status = server.status.as_ref();
        status.is_some_and(|status| status.observed_generation == server.metadata.generation)
    };
    servers.iter().filter(is_current).count()
}

/// How often the operator has sent each kind of request about the namespaces of `harness`.
fn request_counts(server: &ApiServer, harness: &Harness) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::<String, usize>::new();
    for number in 0..NAMESPACES {
        for access in accesses(server, &format!("{}-{number}", harness.namespace)) {
            *counts
                .entry(format!("{} {} {}", access.verb, access.resource, access.code))
                .or_default() += 1;
        }
    }
    counts
}

/// The processor time that the process has used.
fn processor_time(operator: &Process) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", operator.id())).unwrap();
    // The fields after the name of the program, which is in parentheses.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

// All virtual servers of ten namespaces have their objects and their status within 60 s after the start of the operator, which never uses
// more than 150 MiB, also when it starts again beside all these objects.
#[requires(api_server)]
#[tokio::test]
async fn thousand_servers_are_reconciled_from_cold() {
    let server = tokio::task::spawn_blocking(|| ApiServer::start().unwrap())
        .await
        .unwrap();
    let mut harness = Harness::on(&server, "thousand").await;
    create_all(&mut harness).await;

    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcp-operator"));
    command
        .args([
            "--leader-election",
            "false",
            "--admin-listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
        ])
        .env("KUBECONFIG", server.kubeconfig_as(OPERATOR).unwrap());
    let begun = Instant::now();
    let (operator, address) = start(&command).await;
    #[expect(clippy::disallowed_methods, reason = "a test reads all namespaces")]
    let (servers, deployments) = (
        kube::Api::<VirtualMCPServer>::all(harness.client.clone()),
        kube::Api::<Deployment>::all(harness.client.clone()),
    );
    // The list of all is read only when they may be complete: reading it takes the time of the operator.
    let written = "vmcp_operator_applies_total{kind=\"VirtualMCPServer/status\"}";
    let is_complete =
        async || metric(&address, written).await >= SERVERS && current_statuses(&servers).await == SERVERS;
    while !is_complete().await && begun.elapsed() < 3 * LIMIT {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (elapsed, memory, processor) = (
        begun.elapsed(),
        peak_anonymous_memory(&operator),
        processor_time(&operator),
    );
    eprintln!("{SERVERS} virtual servers: {elapsed:?}, {memory} KiB, {processor:?} of processor time");
    let requests = request_counts(&server, &harness);
    eprintln!("{requests:#?}");
    assert_eq!(current_statuses(&servers).await, SERVERS, "with a status");
    let deployments = deployments
        .list_metadata(&ListParams::default())
        .await
        .unwrap()
        .items;
    assert_eq!(deployments.len(), SERVERS, "Deployments");
    // The first status already takes the new Deployment into account, although the watch has not shown it yet.
    let status_writes = requests.get("patch virtualmcpservers/status 200");
    assert_eq!(status_writes, Some(&SERVERS), "writes of a status");
    assert!(memory < MAX_MEMORY_KIB, "{memory} KiB");
    assert!(elapsed < LIMIT, "{elapsed:?}");

    // A new process lists all objects that the first one has created.
    drop(operator);
    let (operator, address) = start(&command).await;
    let reconciled = "vmcp_operator_reconciles_total{error=\"none\"}";
    eventually("every virtual server is reconciled", async || {
        (metric(&address, reconciled).await >= SERVERS).then_some(())
    })
    .await;
    let memory = peak_anonymous_memory(&operator);
    eprintln!("after a restart: {memory} KiB");
    assert!(memory < MAX_MEMORY_KIB, "{memory} KiB after a restart");
}
