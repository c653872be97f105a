//! The operator under test, in the process of the test.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, Ordering};

use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vmcp_operator::controller::{self, ControllerOptions};
use vmcp_operator::desired::mcp_server::ServerImages;
use vmcp_operator::metrics::Metrics;
use vmcp_operator::policy::Policy;
use vmcp_operator::watch::Scope;
use vmcp_operator::watch_health::WatchHealth;

use super::{Harness, OPERATOR, client_of, eventually, server};

/// A running operator.
pub(crate) struct Operator {
    stop: CancellationToken,
    metrics: Metrics,
    watch_health: WatchHealth,
    task: JoinHandle<()>,
}

impl Operator {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

impl Harness {
    pub(crate) async fn start_operator(&mut self) {
        self.start_operator_with(Policy::default()).await;
    }

    pub(crate) async fn start_operator_with(&mut self, policy: Policy) {
        let operator = self.spawn_operator(policy, "vmcp-system/vmcp-operator", "vmcp-gateway:test");
        self.operator = Some(operator.await);
    }

    /// Starts an operator of another installation, or a second one of the same.
    pub(crate) async fn spawn_operator(&self, policy: Policy, installation: &str, image: &str) -> Operator {
        let (stop, metrics) = (CancellationToken::new(), Metrics::default());
        let options = ControllerOptions {
            scopes: vec![Scope::Namespace(self.namespace.clone())],
            images: ServerImages {
                gateway: image.to_owned(),
                npm: "node:test".to_owned(),
                pypi: "uv:test".to_owned(),
            },
            policy,
            pod_user: self.pod_user,
            installation: installation.to_owned(),
            identity: "operator-under-test".to_owned(),
        };
        let watch_health = WatchHealth::default();
        let run = controller::run(
            client_of(&self.kubeconfig, Some(OPERATOR)).await,
            options,
            metrics.clone(),
            watch_health.clone(),
            stop.clone(),
        );
        #[expect(clippy::disallowed_methods, reason = "a test joins it in stop_operator")]
        let task = tokio::spawn(run);
        Operator {
            stop,
            metrics,
            watch_health,
            task,
        }
    }

    pub(crate) async fn stop_operator(&mut self) {
        if let Some(operator) = self.operator.take() {
            operator.stop().await;
        }
    }

    /// The number of writes by the operator.
    pub(crate) fn write_count(&self) -> u64 {
        self.metric("vmcp_operator_applies_total")
    }

    /// The number of reconciles by the operator.
    pub(crate) fn reconcile_count(&self) -> u64 {
        self.metric("vmcp_operator_reconciles_total")
    }

    /// The number of failures of the operator's watches.
    pub(crate) fn watch_failure_count(&self) -> u64 {
        self.metric("vmcp_operator_watch_failures_total")
    }

    /// The messages about rights that the operator's watches need.
    pub(crate) fn refused_watches(&self) -> String {
        self.operator.as_ref().unwrap().watch_health.refusals()
    }

    /// The value of a counter of the operator, summed over its labels.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.operator.as_ref().unwrap().metrics.encode();
        let counts = text.lines().filter(|line| line.starts_with(name));
        counts
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    /// Triggers a reconcile and waits for it. At least one reconcile has begun after this call.
    pub(crate) async fn reconcile(&self) {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        // The first one that ends may have begun earlier.
        for _ in 0..2 {
            let before = self.reconcile_count();
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            // A member of another group triggers a reconcile, because it might have left this group.
            self.apply(&json!({
                "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": "unrelated"},
                "spec": {"groupRef": {"name": "other"}, "url": format!("http://unrelated:{number}")},
            }))
            .await;
            eventually("the operator has reconciled", async || {
                (self.reconcile_count() > before).then_some(())
            })
            .await;
        }
    }

    /// Fails if `holds` returns false, now or after further reconciles.
    pub(crate) async fn assert_stays<K>(&self, what: &str, name: &str, holds: impl Fn(&K) -> bool)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        for _ in 0..3 {
            let object = self.api::<K>().get(name).await.unwrap();
            assert!(holds(&object), "no longer so: {what}: {object:#?}");
            self.reconcile().await;
        }
        let object = self.api::<K>().get(name).await.unwrap();
        assert!(holds(&object), "no longer so: {what}: {object:#?}");
    }

    /// Waits until several consecutive reconciles have written nothing.
    pub(crate) async fn settle(&self) {
        let mut before = self.versions().await;
        eventually("nothing is written any more", async || {
            for _ in 0..3 {
                self.reconcile().await;
            }
            let now = self.versions().await;
            let settled = now == before;
            before = now;
            settled.then_some(())
        })
        .await;
    }

    /// The resource versions of all objects in the namespace that the operator writes.
    pub(crate) async fn versions(&self) -> Vec<String> {
        let kinds = "vmcp,mcpgroups,mcpservers,networkpolicies,configmaps,secrets,serviceaccounts,services,deployments,poddisruptionbudgets,pods,events.events.k8s.io";
        let columns = "custom-columns=:kind,:metadata.name,:metadata.resourceVersion";
        let table = server().kubectl(["get", kinds, "-n", &self.namespace, "-o", columns, "--no-headers"]);
        table.unwrap().lines().map(str::to_owned).collect()
    }
}
