//! A hundred virtual servers with fifty backends each, and nothing to do.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value as Json, json};
use vmcp_crds::condition::find;
use vmcp_crds::status::config_hash;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::requires;

use crate::fake_gateway::FakeGateway;
use crate::harness::{Harness, eventually, server};
use crate::requests::{accesses, writes_after};

const GROUPS: [&str; 2] = ["blue", "green"];
const SERVERS_PER_GROUP: usize = 50;
const BACKENDS_PER_GROUP: usize = 50;
/// How long nothing must be written.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// Time for the last writes before that, such as Events.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// The names of all virtual servers, with their groups.
fn names() -> Vec<(String, &'static str)> {
    let of_group = |group: &'static str| (0..SERVERS_PER_GROUP).map(move |n| (format!("{group}-{n}"), group));
    GROUPS.into_iter().flat_map(of_group).collect()
}

async fn apply_all(harness: &Harness) {
    let kind = |kind: &str, name: &str, spec: Json| json!({"apiVersion": "vmcp.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let mut objects = Vec::new();
    for group in GROUPS {
        objects.push(kind("MCPGroup", group, json!({})));
        for number in 0..BACKENDS_PER_GROUP {
            let name = format!("{group}-{number}");
            let spec = json!({"groupRef": {"name": group}, "url": format!("http://{name}:8000/mcp")});
            objects.push(kind("MCPServerEntry", &name, spec));
        }
    }
    for (name, group) in names() {
        objects.push(kind(
            "VirtualMCPServer",
            &name,
            json!({"groupRef": {"name": group}, "replicas": 1}),
        ));
    }
    futures::stream::iter(&objects)
        .for_each_concurrent(8, |object| harness.apply(object))
        .await;
}

/// The backends of `group`, as a gateway reports them.
fn ready_backends(group: &str) -> Json {
    (0..BACKENDS_PER_GROUP)
        .map(|number| json!({"name": format!("{group}-{number}"), "state": "ready", "tools": 1}))
        .collect()
}

/// Gives every virtual server a ready pod that has taken its configuration.
async fn roll_out_all(harness: &Harness) {
    let gateway = &FakeGateway::start("of none", "").await;
    futures::stream::iter(names())
        .for_each_concurrent(8, |(name, group)| async move {
            let token = harness.status_token_of(&name).await;
            let hot: ConfigMap = harness.wait_for_object(&format!("vmcp-{name}-backends")).await;
            gateway.add(&token, &config_hash(&hot.data.unwrap()["backends.yaml"]));
            gateway.report_to(&token, "backends", ready_backends(group));
            harness.roll_out_one(&name, &gateway.address).await;
        })
        .await;
}

fn is_ready(server: &VirtualMCPServer) -> bool {
    let conditions = server.status.as_ref().map(|status| &status.conditions);
    let ready = conditions.and_then(|conditions| find(conditions, "Ready"));
    ready.is_some_and(|ready| ready.status == "True")
}

// For 60 s, in which every virtual server is reconciled and every pod is asked for its status, the operator writes nothing: neither an
// object, nor a status, nor an Event.
#[requires(api_server)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_idle_servers_cause_no_write() {
    let harness = Harness::start("idle").await;
    apply_all(&harness).await;
    roll_out_all(&harness).await;
    let servers = harness.api::<VirtualMCPServer>();
    eventually("all are ready", async || {
        let list = servers.list(&Default::default()).await.unwrap();
        (list.items.len() == names().len() && list.iter().all(is_ready)).then_some(())
    })
    .await;
    tokio::time::sleep(LAST_WRITES).await;

    let (seen, reconciles) = (
        accesses(server(), &harness.namespace).len(),
        harness.reconcile_count(),
    );
    tokio::time::sleep(IDLE_TIME).await;
    let writes = writes_after(server(), &harness.namespace, seen);
    assert!(writes.is_empty(), "{writes:?}");
    let reconciles = harness.reconcile_count() - reconciles;
    assert!(reconciles >= names().len() as u64, "only {reconciles} reconciles");
}
