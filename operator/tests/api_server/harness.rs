//! Test harness: one namespace per test, on one API server for all tests.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vmcp_cluster::ApiServer;
use vmcp_crds::session_key::SessionKey;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_operator::controller::{self, ControllerOptions};
use vmcp_operator::desired::labels;
use vmcp_operator::metrics::Metrics;
use vmcp_operator::policy::Policy;
use vmcp_operator::watch::Scope;
use vmcp_operator::watch_health::WatchHealth;

use crate::fake_gateway::FakeGateway;

/// The user as which the operator calls the API server.
pub(crate) const OPERATOR: &str = "system:serviceaccount:vmcp-system:vmcp-operator";
/// The rights that the chart gives the operator.
pub(crate) const RULES: &str = include_str!("../../../charts/vmcp-operator/files/rules.yaml");
/// The operator's kinds, in plural.
pub(crate) const KINDS: [&str; 3] = ["virtualmcpservers", "mcpgroups", "mcpserverentries"];
/// Time limit of every wait, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A namespace, and an operator that watches it.
pub(crate) struct Harness {
    /// A client with administrator rights.
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// The administrator's kubeconfig.
    kubeconfig: PathBuf,
    operator: Option<Operator>,
}

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
    /// A namespace with a running operator.
    pub(crate) async fn start(name: &str) -> Self {
        let mut harness = Self::without_operator(name).await;
        harness.start_operator().await;
        harness
    }

    /// A namespace without an operator.
    pub(crate) async fn without_operator(name: &str) -> Self {
        static ONCE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
        let kubeconfig = tokio::task::spawn_blocking(|| server().kubeconfig())
            .await
            .unwrap();
        let harness = Self::new(kubeconfig, name).await;
        ONCE.get_or_init(|| harness.install(server())).await;
        harness.create_namespace().await;
        harness
    }

    /// A namespace without an operator, on a separate API server that lacks the operator's kinds.
    pub(crate) async fn without_kinds(server: &ApiServer, name: &str) -> Self {
        let harness = Self::new(server.kubeconfig(), name).await;
        harness
            .apply_operator_role(&serde_yaml::from_str(RULES).unwrap())
            .await;
        harness.create_namespace().await;
        harness
    }

    /// A namespace without an operator, on a separate API server.
    pub(crate) async fn on(server: &ApiServer, name: &str) -> Self {
        let harness = Self::new(server.kubeconfig(), name).await;
        harness.install(server).await;
        harness.create_namespace().await;
        harness
    }

    async fn new(kubeconfig: PathBuf, name: &str) -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        Self {
            client: client_of(&kubeconfig, None).await,
            namespace: format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)),
            kubeconfig,
            operator: None,
        }
    }

    async fn create_namespace(&self) {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}});
        self.apply_cluster(&namespace).await;
        self.apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "operator"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "operator"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": OPERATOR}],
        }))
        .await;
    }

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
            default_image: image.to_owned(),
            policy,
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
    fn reconcile_count(&self) -> u64 {
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
    fn metric(&self, name: &str) -> u64 {
        let text = self.operator.as_ref().unwrap().metrics.encode();
        let counts = text.lines().filter(|line| line.starts_with(name));
        counts
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    /// Installs the CRDs, and a role with the permissions of the chart.
    async fn install(&self, server: &ApiServer) {
        self.apply_operator_role(&serde_yaml::from_str(RULES).unwrap())
            .await;
        self.install_kinds(server, &KINDS).await;
    }

    /// Installs the CRDs of these kinds, and waits until they are served.
    pub(crate) async fn install_kinds(&self, server: &ApiServer, kinds: &[&str]) {
        for (_, text) in vmcp_crds::v1alpha1::yaml().unwrap() {
            let crd: Json = serde_yaml::from_str(&text).unwrap();
            if kinds.iter().any(|kind| crd["spec"]["names"]["plural"] == *kind) {
                self.apply_cluster(&crd).await;
            }
        }
        for kind in kinds {
            let crd = format!("crd/{kind}.vmcp.dev");
            server
                .kubectl(["wait", "--for=condition=Established", "--timeout=30s", &crd])
                .unwrap();
        }
        // The API server serves a new kind shortly after it is established.
        for kind in kinds {
            eventually(&format!("{kind} are served"), async || {
                server.kubectl(["get", kind, "-A"]).ok().map(drop)
            })
            .await;
        }
    }

    /// Gives the operator exactly the rights in `rules`.
    pub(crate) async fn apply_operator_role(&self, rules: &Json) {
        self.apply_cluster(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "operator"}, "rules": rules,
        }))
        .await;
    }

    /// Applies an object in this namespace as a user.
    pub(crate) async fn apply(&self, object: &Json) {
        let (api, name) = self.dynamic(object, Some(&self.namespace));
        let manager = PatchParams::apply("user").force();
        api.patch(&name, &manager, &Patch::Apply(object)).await.unwrap();
    }

    /// Reads an object of this namespace, of which `object` has the kind and the name.
    pub(crate) async fn get(&self, object: &Json) -> Json {
        let (api, name) = self.dynamic(object, Some(&self.namespace));
        serde_json::to_value(api.get(&name).await.unwrap()).unwrap()
    }

    pub(crate) async fn apply_cluster(&self, object: &Json) {
        let (api, name) = self.dynamic(object, None);
        let manager = PatchParams::apply("user").force();
        api.patch(&name, &manager, &Patch::Apply(object)).await.unwrap();
    }

    #[expect(clippy::disallowed_methods, reason = "tests use fixed names")]
    fn dynamic(&self, object: &Json, namespace: Option<&str>) -> (Api<DynamicObject>, String) {
        let word = |pointer: &str| object.pointer(pointer).and_then(Json::as_str).unwrap_or_default();
        let (group, version) = word("/apiVersion")
            .rsplit_once('/')
            .unwrap_or(("", word("/apiVersion")));
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, word("/kind")));
        let api = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind),
            None => Api::all_with(self.client.clone(), &kind),
        };
        (api, word("/metadata/name").to_owned())
    }

    #[expect(clippy::disallowed_methods, reason = "tests use fixed names")]
    pub(crate) fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Waits until the object `name` exists and `expect` returns a value for it.
    pub(crate) async fn wait_for<K, T>(&self, what: &str, name: &str, expect: impl Fn(&K) -> Option<T>) -> T
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api = self.api::<K>();
        eventually(what, async || {
            api.get_opt(name).await.unwrap().as_ref().and_then(&expect)
        })
        .await
    }

    /// Waits until the object `name` exists.
    pub(crate) async fn wait_for_object<K>(&self, name: &str) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.wait_for(&format!("{} {name} exists", K::kind(&())), name, |object: &K| {
            Some(object.clone())
        })
        .await
    }

    /// Waits until there is an Event of this type with this reason.
    pub(crate) async fn wait_for_event(&self, type_: &str, reason: &str) {
        let events = self.api::<Event>();
        eventually(&format!("there is an Event {type_} {reason}"), async || {
            let list = events.list(&ListParams::default()).await.unwrap();
            let is_wanted = |event: &Event| {
                (event.type_.as_deref(), event.reason.as_deref()) == (Some(type_), Some(reason))
            };
            list.iter().any(is_wanted).then_some(())
        })
        .await;
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

    /// Sets the status of an object in place of its controller.
    pub(crate) async fn apply_status(&self, object: &Json) {
        let (api, name) = self.dynamic(object, Some(&self.namespace));
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(object))
            .await
            .unwrap();
    }

    /// Applies a group with these members.
    pub(crate) async fn apply_group(&self, members: &[&str]) {
        let group =
            json!({"apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPGroup", "metadata": {"name": "group"}});
        self.apply(&group).await;
        for member in members {
            self.apply_member(member).await;
        }
    }

    pub(crate) async fn apply_member(&self, name: &str) {
        self.apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": name},
            "spec": {"groupRef": {"name": "group"}, "url": format!("http://{name}:8000/mcp")},
        }))
        .await;
    }

    /// Applies the virtual server `x` with `spec` and the group.
    pub(crate) async fn apply_server(&self, mut spec: Json) {
        spec["groupRef"] = json!({"name": "group"});
        self.apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "metadata": {"name": "x"}, "spec": spec,
        }))
        .await;
    }

    /// Waits until a condition of the virtual server `x` has this status and reason.
    pub(crate) async fn wait_for_condition(&self, type_: &str, expected: &str, reason: &str) {
        self.wait_for(
            &format!("{type_} is {expected}: {reason}"),
            "x",
            |server: &VirtualMCPServer| {
                let status = server.status.as_ref()?;
                let condition = vmcp_crds::condition::find(&status.conditions, type_)?;
                (condition.status == expected && condition.reason == reason).then_some(())
            },
        )
        .await;
    }

    /// Waits until the virtual server `x` has each of these conditions, given as type, status and reason.
    pub(crate) async fn wait_for_conditions(&self, expected: &[(&str, &str, &str)]) {
        for (type_, status, reason) in expected {
            self.wait_for_condition(type_, status, reason).await;
        }
    }

    /// Waits until the message of a condition of the virtual server `x` contains `words`, and returns the condition's reason.
    pub(crate) async fn wait_for_words(&self, type_: &str, words: &str) -> String {
        self.wait_for(
            &format!("{type_} says {words:?}"),
            "x",
            |server: &VirtualMCPServer| {
                let status = server.status.as_ref()?;
                let condition = vmcp_crds::condition::find(&status.conditions, type_)?;
                condition
                    .message
                    .contains(words)
                    .then(|| condition.reason.clone())
            },
        )
        .await
    }

    /// Waits until a condition of the virtual server `x` has this status, with any reason.
    pub(crate) async fn wait_for_status(&self, type_: &str, expected: &str) {
        self.wait_for(
            &format!("{type_} is {expected}"),
            "x",
            |server: &VirtualMCPServer| {
                let status = server.status.as_ref()?;
                let condition = vmcp_crds::condition::find(&status.conditions, type_)?;
                (condition.status == expected).then_some(())
            },
        )
        .await;
    }

    /// Stands in for the Deployment's controller and the kubelet: one ready pod per gateway, all of the current revision.
    pub(crate) async fn roll_out(&self, gateways: &[&FakeGateway]) {
        let set = self.replica_set().await;
        for gateway in gateways {
            self.apply_pod(gateway, "ReplicaSet", set.metadata.uid.as_deref().unwrap())
                .await;
        }
        self.observe_deployment(gateways.len()).await;
    }

    /// Stands in for the Deployment's controller: `count` pods, all updated and available.
    pub(crate) async fn observe_deployment(&self, count: usize) {
        let deployment: Deployment = self.wait_for_object("vmcp-x").await;
        let status = json!({"status": {
            "observedGeneration": deployment.metadata.generation, "replicas": count, "updatedReplicas": count,
            "readyReplicas": count, "availableReplicas": count,
        }});
        self.patch_status::<Deployment>("vmcp-x", &status).await;
    }

    /// Creates the ReplicaSet of the virtual server `x` in place of the Deployment's controller.
    async fn replica_set(&self) -> ReplicaSet {
        let deployment: Deployment = self.wait_for_object("vmcp-x").await;
        let template = &deployment.spec.template;
        self.apply(&json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": "vmcp-x-current", "labels": template.metadata.as_ref().unwrap().labels,
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "Deployment", "name": "vmcp-x", "uid": deployment.metadata.uid,
                    "controller": true,
                }],
            },
            "spec": {"replicas": 0, "template": template, "selector": {"matchLabels": {labels::INSTANCE: "x"}}},
        }))
        .await;
        self.wait_for_object("vmcp-x-current").await
    }

    /// Stands in for the Deployment's controller and the kubelet in a rollout of one replica: an old pod that is ready, and a new one that is
    /// not.
    pub(crate) async fn stop_rollout(&self, old: &FakeGateway, new: &FakeGateway) {
        let set = self.replica_set().await;
        for gateway in [old, new] {
            self.apply_pod(gateway, "ReplicaSet", set.metadata.uid.as_deref().unwrap())
                .await;
        }
        self.mark_pod(&new.pod, new, "False").await;
        let deployment: Deployment = self.wait_for_object("vmcp-x").await;
        let status = json!({"status": {
            "observedGeneration": deployment.metadata.generation, "replicas": 2, "updatedReplicas": 1,
            "readyReplicas": 1, "availableReplicas": 1,
        }});
        self.patch_status::<Deployment>("vmcp-x", &status).await;
    }

    /// Creates a ready pod with the labels of a gateway and a controller of this kind and uid.
    pub(crate) async fn apply_pod(&self, gateway: &FakeGateway, kind: &str, owner: &str) {
        let mut labels = json!({labels::MANAGED_BY: labels::OPERATOR});
        labels[labels::NAME] = json!(labels::GATEWAY);
        labels[labels::INSTANCE] = json!("x");
        let owner = json!({
            "apiVersion": "apps/v1", "kind": kind, "name": "vmcp-x-current", "uid": owner, "controller": true,
        });
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": gateway.pod, "labels": labels, "ownerReferences": [owner]},
            "spec": {"containers": [{"name": "gateway", "image": "x"}]},
        }))
        .await;
        self.mark_pod_ready(&gateway.pod, gateway).await;
    }

    /// Stands in for the kubelet: the pod `name` is ready, and has the address of `gateway`.
    pub(crate) async fn mark_pod_ready(&self, name: &str, gateway: &FakeGateway) {
        self.mark_pod(name, gateway, "True").await;
    }

    async fn mark_pod(&self, name: &str, gateway: &FakeGateway, ready: &str) {
        let status = json!({"status": {
            "phase": "Running", "podIP": gateway.address, "podIPs": [{"ip": gateway.address}],
            "conditions": [{"type": "Ready", "status": ready}],
        }});
        self.patch_status::<Pod>(name, &status).await;
    }

    async fn patch_status<K>(&self, name: &str, status: &Json)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let api = self.api::<K>();
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    /// The bearer token for the status of the virtual server `x`.
    pub(crate) async fn status_token(&self) -> String {
        let secret: Secret = self.wait_for_object("vmcp-x-session-keys").await;
        let text = String::from_utf8(secret.data.unwrap()["current"].0.clone()).unwrap();
        SessionKey::parse(&text)
            .unwrap()
            .status_token(&self.namespace, "x")
    }

    /// The resource versions of all objects in the namespace that the operator writes.
    pub(crate) async fn versions(&self) -> Vec<String> {
        let kinds = "vmcp,mcpgroups,configmaps,secrets,serviceaccounts,services,deployments,poddisruptionbudgets,pods,events.events.k8s.io";
        let columns = "custom-columns=:kind,:metadata.name,:metadata.resourceVersion";
        let table = server().kubectl(["get", kinds, "-n", &self.namespace, "-o", columns, "--no-headers"]);
        table.unwrap().lines().map(str::to_owned).collect()
    }
}

/// Whether the operator says that a virtual server is not ready.
pub(crate) fn is_not_ready(server: &VirtualMCPServer) -> bool {
    let conditions = server.status.as_ref().map(|status| &status.conditions);
    let ready = conditions.and_then(|conditions| vmcp_crds::condition::find(conditions, "Ready"));
    ready.is_some_and(|ready| ready.status == "False")
}

/// Polls until `found` returns a value.
pub(crate) async fn eventually<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(value) = found().await {
            return value;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "not within {DEADLINE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The API server of all tests in this binary. It ends with the process.
pub(crate) fn server() -> &'static ApiServer {
    static SERVER: OnceLock<ApiServer> = OnceLock::new();
    SERVER.get_or_init(|| ApiServer::start().unwrap())
}

/// A client for the kubeconfig `file`, optionally impersonating `user`.
pub(crate) async fn client_of(file: &Path, user: Option<&str>) -> Client {
    let kubeconfig = Kubeconfig::read_from(file).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    config.auth_info.impersonate = user.map(str::to_owned);
    // The administrator's requests are not restricted as the operator's are.
    match user {
        Some(_) => vmcp_operator::api_server::client(config).unwrap(),
        None => Client::try_from(config).unwrap(),
    }
}
