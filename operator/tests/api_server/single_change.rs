//! The requests that the operator writes for a single change: no more than the change needs.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value as Json, json};
use vmcp_crds::v1alpha1::{MCPServerEntry, VirtualMCPServer};
use vmcp_external::requires;

use crate::fake_gateway::FakeGateway;
use crate::harness::{Harness, server};
use crate::hot_config::rendered_hash;
use crate::requests::{accesses, writes_after};

/// How long the expected writes may take.
const PATIENCE: Duration = Duration::from_secs(20);

const APPLY_DEPLOYMENT: &str = "patch deployments";
const APPLY_CONFIG_MAP: &str = "patch configmaps";
const APPLY_SERVICE: &str = "patch services";
const APPLY_BUDGET: &str = "patch poddisruptionbudgets";
const NUDGE_POD: &str = "patch pods";
const SERVER_STATUS: &str = "patch virtualmcpservers/status";
const GROUP_STATUS: &str = "patch mcpgroups/status";
const EVENT: &str = "write events";

/// A ready virtual server with two pods, two backends, a Redis password and a header with a secret value.
struct Fixture {
    harness: Harness,
    gateways: Vec<FakeGateway>,
    /// The spec of the virtual server.
    spec: Json,
    /// The number of requests that were accounted for.
    seen: usize,
}

impl Fixture {
    async fn start() -> Self {
        let harness = Harness::start("one-change").await;
        harness.apply_group(&["time"]).await;
        let fixture = Self {
            spec: json!({
                "replicas": 2, "image": "gateway:1",
                "sessionStorage": {
                    "provider": "redis", "address": "redis:6379", "passwordRef": {"name": "redis", "key": "password"},
                },
            }),
            harness,
            gateways: Vec::new(),
            seen: 0,
        };
        fixture
            .apply_secret("redis", json!({"password": "hunter2"}))
            .await;
        fixture.apply_secret("weather", json!({"token": "first"})).await;
        let token = json!({"Authorization": {"secretKeyRef": {"name": "weather", "key": "token"}}});
        fixture
            .apply_entry("weather", "https://weather:8000/mcp", Some(token))
            .await;
        fixture.harness.apply_server(fixture.spec.clone()).await;
        fixture.with_pods(2).await
    }

    /// Adds pods, and waits until nothing is left to do.
    async fn with_pods(mut self, count: usize) -> Self {
        let (token, hash) = (
            self.harness.status_token().await,
            rendered_hash(&self.harness).await,
        );
        for _ in 0..count {
            self.gateways.push(FakeGateway::start(&token, &hash).await);
        }
        self.report_ready();
        self.roll_out().await;
        self.harness.wait_for_status("Ready", "True").await;
        self.harness.settle().await;
        self.seen = accesses(server(), &self.harness.namespace).len();
        self
    }

    fn report_ready(&self) {
        let backends = json!([
            {"name": "time", "state": "ready", "tools": 1}, {"name": "weather", "state": "ready", "tools": 1},
        ]);
        for gateway in &self.gateways {
            gateway.report("backends", backends.clone());
        }
    }

    async fn roll_out(&self) {
        let gateways: Vec<&FakeGateway> = self.gateways.iter().collect();
        self.harness.roll_out(&gateways).await;
    }

    /// Stands in for the kubelet and the gateways: the pods load the new configuration after the operator has seen that they have the old one.
    async fn load_config(&self) {
        self.harness
            .wait_for_condition("Ready", "False", "ConfigPending")
            .await;
        let hash = rendered_hash(&self.harness).await;
        for gateway in &self.gateways {
            gateway.report("hotConfigHash", json!(hash));
        }
    }

    async fn change_spec(&mut self, field: &str, value: Json) {
        self.spec[field] = value;
        self.harness.apply_server(self.spec.clone()).await;
    }

    async fn apply_secret(&self, name: &str, data: Json) {
        self.harness
            .apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}))
            .await;
    }

    async fn apply_entry(&self, name: &str, url: &str, headers: Option<Json>) {
        let mut spec = json!({"groupRef": {"name": "group"}, "url": url});
        if let Some(headers) = headers {
            spec["headers"] = headers;
        }
        self.harness
            .apply(&json!({
                "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": name}, "spec": spec,
            }))
            .await;
    }

    /// Waits for these writes since the last call, and fails if there are others, now or after further reconciles.
    async fn expect(&mut self, change: &str, expected: &[(&str, usize)]) {
        let expected: BTreeMap<String, usize> = expected
            .iter()
            .map(|(write, count)| ((*write).to_owned(), *count))
            .collect();
        let writes = || writes_after(server(), &self.harness.namespace, self.seen);
        let end = tokio::time::Instant::now() + PATIENCE;
        while writes() != expected && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        for _ in 0..3 {
            self.harness.reconcile().await;
        }
        assert_eq!(writes(), expected, "{change}");
        self.seen = accesses(server(), &self.harness.namespace).len();
    }
}

// A change of what the operator does not use causes no write.
#[requires(api_server)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_change_causes_no_write() {
    let mut fixture = Fixture::start().await;
    let merge = PatchParams::default();
    let label = Patch::Merge(json!({"metadata": {"labels": {"example.com/theirs": "yes"}}}));
    let deployments = fixture.harness.api::<Deployment>();
    deployments.patch("vmcp-x", &merge, &label).await.unwrap();
    fixture.expect("a label of others on the Deployment", &[]).await;

    let annotation = Patch::Apply(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"annotations": {"example.com/theirs": "yes"}},
    }));
    let team = PatchParams::apply("platform-team");
    deployments.patch("vmcp-x", &team, &annotation).await.unwrap();
    fixture
        .expect("an annotation of another manager on the Deployment", &[])
        .await;

    let servers = fixture.harness.api::<VirtualMCPServer>();
    servers.patch("x", &merge, &label).await.unwrap();
    fixture.expect("a label on the virtual server", &[]).await;

    let entries = fixture.harness.api::<MCPServerEntry>();
    entries.patch("time", &merge, &label).await.unwrap();
    fixture
        .expect("a label on an entry that no group selects", &[])
        .await;

    for name in ["redis", "weather", "vmcp-x-session-keys"] {
        let secrets = fixture.harness.api::<Secret>();
        secrets.patch(name, &merge, &label).await.unwrap();
        fixture
            .expect(&format!("a label on the Secret {name}"), &[])
            .await;
    }

    fixture
        .apply_secret("unrelated", json!({"password": "hunter2"}))
        .await;
    fixture.expect("a Secret that nothing names", &[]).await;

    // Nothing is reconciled after the deletion, so another virtual server shows that the operator has got past it.
    servers.delete("x", &DeleteParams::default()).await.unwrap();
    fixture
        .harness
        .apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "metadata": {"name": "later"},
            "spec": {"groupRef": {"name": "missing"}},
        }))
        .await;
    fixture
        .expect(
            "the deletion of the virtual server, and one without a group",
            &[(SERVER_STATUS, 1), (EVENT, 1)],
        )
        .await;
}

// A change of the spec of the virtual server writes the objects that show it, the status with the new generation, and nothing else.
#[requires(api_server)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_spec_writes_each_object_once() {
    let mut fixture = Fixture::start().await;
    fixture.change_spec("sessionAffinity", json!("ClientIP")).await;
    fixture
        .expect("session affinity", &[(APPLY_SERVICE, 1), (SERVER_STATUS, 1)])
        .await;

    fixture.change_spec("image", json!("gateway:2")).await;
    fixture
        .expect("image", &[(APPLY_DEPLOYMENT, 1), (SERVER_STATUS, 1), (EVENT, 1)])
        .await;
    fixture.roll_out().await;
    fixture
        .expect("its roll-out", &[(SERVER_STATUS, 1), (EVENT, 1)])
        .await;

    fixture.change_spec("replicas", json!(1)).await;
    fixture
        .expect(
            "one replica",
            &[
                (APPLY_DEPLOYMENT, 1),
                ("delete poddisruptionbudgets", 1),
                (SERVER_STATUS, 1),
                (EVENT, 1),
            ],
        )
        .await;
    fixture.harness.observe_deployment(1).await;
    fixture
        .expect("its roll-out", &[(SERVER_STATUS, 1), (EVENT, 1)])
        .await;

    fixture.change_spec("replicas", json!(2)).await;
    fixture
        .expect(
            "two replicas",
            &[
                (APPLY_DEPLOYMENT, 1),
                (APPLY_BUDGET, 1),
                (SERVER_STATUS, 1),
                (EVENT, 1),
            ],
        )
        .await;
    fixture.harness.observe_deployment(2).await;
    fixture
        .expect("its roll-out", &[(SERVER_STATUS, 1), (EVENT, 1)])
        .await;

    fixture.spec["sessionStorage"]["db"] = json!(3);
    fixture.change_spec("sessionAffinity", json!("ClientIP")).await;
    fixture
        .expect(
            "database, which is in the start-up configuration",
            &[
                (APPLY_CONFIG_MAP, 1),
                (APPLY_DEPLOYMENT, 1),
                (SERVER_STATUS, 1),
                (EVENT, 1),
            ],
        )
        .await;
    // The ReplicaSet of the new revision takes the place of the old one, so its ConfigMap is no longer used.
    fixture.roll_out().await;
    fixture
        .expect(
            "its roll-out",
            &[("delete configmaps", 1), (SERVER_STATUS, 1), (EVENT, 1)],
        )
        .await;
}

// A change of a backend writes the hot configuration, one annotation of each pod, and the statuses that it changes.
#[requires(api_server)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_backend_writes_config_once() {
    let mut fixture = Fixture::start().await;
    let pods = fixture.gateways.len();

    fixture.apply_entry("time", "http://time:9000/mcp", None).await;
    fixture.load_config().await;
    fixture
        .expect(
            "another URL",
            &[
                (APPLY_CONFIG_MAP, 1),
                (NUDGE_POD, pods),
                (SERVER_STATUS, 2),
                (EVENT, 2),
            ],
        )
        .await;

    fixture.apply_secret("weather", json!({"token": "second"})).await;
    fixture
        .expect("the value of a header", &[(NUDGE_POD, pods)])
        .await;

    fixture
        .apply_secret("redis", json!({"password": "hunter3"}))
        .await;
    fixture
        .expect(
            "the password of Redis",
            &[(APPLY_DEPLOYMENT, 1), (SERVER_STATUS, 1), (EVENT, 1)],
        )
        .await;
    fixture.roll_out().await;
    fixture
        .expect("its roll-out", &[(SERVER_STATUS, 1), (EVENT, 1)])
        .await;

    fixture.apply_entry("news", "http://news:8000/mcp", None).await;
    fixture.load_config().await;
    fixture
        .expect(
            // The third Event: the gateways do not report the new backend.
            "an entry is added",
            &[
                (APPLY_CONFIG_MAP, 1),
                (NUDGE_POD, pods),
                (GROUP_STATUS, 1),
                (SERVER_STATUS, 2),
                (EVENT, 3),
            ],
        )
        .await;
}
