//! One namespace per test, on one API server for all of them.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
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
use vmcp_operator::controller::{self, Options};
use vmcp_operator::desired::labels;
use vmcp_operator::metrics::Metrics;
use vmcp_operator::policy::Policy;
use vmcp_operator::watch::Scope;

use crate::gateway::FakeGateway;

/// As whom the operator talks to the API server.
pub(crate) const OPERATOR: &str = "system:serviceaccount:vmcp-system:vmcp-operator";
/// How long anything may take, on a machine with other things to do.
const DEADLINE: Duration = Duration::from_secs(60);

/// A namespace with an operator that watches it.
pub(crate) struct World {
    /// The administrator.
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// Of the administrator.
    kubeconfig: PathBuf,
    operator: Option<Operator>,
}

struct Operator {
    stop: CancellationToken,
    metrics: Metrics,
    task: JoinHandle<()>,
}

impl World {
    /// A namespace with a running operator; nothing where the test run leaves out what needs Kubernetes.
    pub(crate) async fn start(name: &str) -> Option<Self> {
        let mut world = Self::without_operator(name).await?;
        world.start_operator().await;
        Some(world)
    }

    /// A namespace without an operator; nothing where the test run leaves out what needs Kubernetes.
    pub(crate) async fn without_operator(name: &str) -> Option<Self> {
        if vmcp_peers::left_out("api-server") {
            return None;
        }
        static ONCE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
        let kubeconfig = tokio::task::spawn_blocking(|| server().kubeconfig())
            .await
            .unwrap();
        let world = Self::new(kubeconfig, name).await;
        ONCE.get_or_init(|| world.install(server())).await;
        world.make_namespace().await;
        Some(world)
    }

    /// A namespace without an operator on an API server of the test's own.
    pub(crate) async fn on(server: &ApiServer, name: &str) -> Self {
        let world = Self::new(server.kubeconfig(), name).await;
        world.install(server).await;
        world.make_namespace().await;
        world
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

    async fn make_namespace(&self) {
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
        let (stop, metrics) = (CancellationToken::new(), Metrics::default());
        let options = Options {
            scopes: vec![Scope::Namespace(self.namespace.clone())],
            default_image: "vmcp-gateway:test".to_owned(),
            policy,
            identity: "operator-under-test".to_owned(),
        };
        let run = controller::run(
            client_of(&self.kubeconfig, Some(OPERATOR)).await,
            options,
            metrics.clone(),
            stop.clone(),
        );
        #[expect(clippy::disallowed_methods, reason = "a test joins it in stop_operator")]
        let task = tokio::spawn(run);
        self.operator = Some(Operator { stop, metrics, task });
    }

    pub(crate) async fn stop_operator(&mut self) {
        if let Some(operator) = self.operator.take() {
            operator.stop.cancel();
            operator.task.await.unwrap();
        }
    }

    /// How often the operator has written anything.
    pub(crate) fn writes(&self) -> u64 {
        self.count("vmcp_operator_applies_total")
    }

    /// How often the operator has looked at a virtual server.
    fn looks(&self) -> u64 {
        self.count("vmcp_operator_reconciles_total")
    }

    /// The sum of a count of the operator over its labels.
    fn count(&self, name: &str) -> u64 {
        let text = self.operator.as_ref().unwrap().metrics.text();
        let counts = text.lines().filter(|line| line.starts_with(name));
        counts
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    /// The definitions, and a role with the rights of the chart.
    async fn install(&self, server: &ApiServer) {
        for (_, text) in vmcp_crds::v1alpha1::yaml().unwrap() {
            self.apply_cluster(&serde_yaml::from_str(&text).unwrap()).await;
        }
        let rules = include_str!("../../../charts/vmcp-operator/files/rules.yaml");
        let rules: Json = serde_yaml::from_str(rules).unwrap();
        self.apply_cluster(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "operator"}, "rules": rules,
        }))
        .await;
        let kinds = ["virtualmcpservers", "mcpgroups", "mcpserverentries"];
        for kind in kinds {
            let crd = format!("crd/{kind}.vmcp.dev");
            server
                .kubectl(["wait", "--for=condition=Established", "--timeout=30s", &crd])
                .unwrap();
        }
        // The API server serves a new kind a moment after it says so.
        for kind in kinds {
            eventually(&format!("{kind} are served"), async || {
                server.kubectl(["get", kind, "-A"]).ok().map(drop)
            })
            .await;
        }
    }

    /// Applies an object of this namespace, as its user would.
    pub(crate) async fn apply(&self, object: &Json) {
        let (api, name) = self.dynamic(object, Some(&self.namespace));
        let manager = PatchParams::apply("user").force();
        api.patch(&name, &manager, &Patch::Apply(object)).await.unwrap();
    }

    async fn apply_cluster(&self, object: &Json) {
        let (api, name) = self.dynamic(object, None);
        let manager = PatchParams::apply("user").force();
        api.patch(&name, &manager, &Patch::Apply(object)).await.unwrap();
    }

    #[expect(clippy::disallowed_methods, reason = "a test names what it wants")]
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

    #[expect(clippy::disallowed_methods, reason = "a test names what it wants")]
    pub(crate) fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The object `name`, when there is one for which `expect` gives something.
    pub(crate) async fn sees<K, T>(&self, what: &str, name: &str, expect: impl Fn(&K) -> Option<T>) -> T
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api = self.api::<K>();
        eventually(what, async || {
            api.get_opt(name).await.unwrap().as_ref().and_then(&expect)
        })
        .await
    }

    /// The object `name`, once it is there.
    pub(crate) async fn child<K>(&self, name: &str) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.sees(&format!("{} {name} exists", K::kind(&())), name, |object: &K| {
            Some(object.clone())
        })
        .await
    }

    /// Makes the operator look at everything here, and returns when it has: at least one look began after this was called.
    pub(crate) async fn look(&self) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // The first to end may have begun before.
        for _ in 0..2 {
            let before = self.looks();
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            // A member of another group makes it look, because it might have left this one.
            self.apply(&json!({
                "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": "unrelated"},
                "spec": {"groupRef": {"name": "other"}, "url": format!("http://unrelated:{number}")},
            }))
            .await;
            eventually("the operator has looked", async || {
                (self.looks() > before).then_some(())
            })
            .await;
        }
    }

    /// Fails when `holds` does not hold, now and after the operator has looked again.
    pub(crate) async fn stays<K>(&self, what: &str, name: &str, holds: impl Fn(&K) -> bool)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        for _ in 0..3 {
            let object = self.api::<K>().get(name).await.unwrap();
            assert!(holds(&object), "no longer so: {what}: {object:#?}");
            self.look().await;
        }
        let object = self.api::<K>().get(name).await.unwrap();
        assert!(holds(&object), "no longer so: {what}: {object:#?}");
    }

    /// Waits until several looks in a row have written nothing.
    pub(crate) async fn settle(&self) {
        let mut before = self.versions().await;
        eventually("nothing is written any more", async || {
            for _ in 0..3 {
                self.look().await;
            }
            let now = self.versions().await;
            let settled = now == before;
            before = now;
            settled.then_some(())
        })
        .await;
    }

    /// Sets the status of an object, as its controller would.
    pub(crate) async fn apply_status(&self, object: &Json) {
        let (api, name) = self.dynamic(object, Some(&self.namespace));
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(object))
            .await
            .unwrap();
    }

    /// A group with these members.
    pub(crate) async fn group(&self, members: &[&str]) {
        let group =
            json!({"apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPGroup", "metadata": {"name": "group"}});
        self.apply(&group).await;
        for member in members {
            self.member(member).await;
        }
    }

    pub(crate) async fn member(&self, name: &str) {
        self.apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": name},
            "spec": {"groupRef": {"name": "group"}, "url": format!("http://{name}:8000/mcp")},
        }))
        .await;
    }

    /// The virtual server `x` with `spec` beside its group.
    pub(crate) async fn server(&self, mut spec: Json) {
        spec["groupRef"] = json!({"name": "group"});
        self.apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "metadata": {"name": "x"}, "spec": spec,
        }))
        .await;
    }

    /// Waits until a condition of the virtual server `x` has this status and reason.
    pub(crate) async fn says(&self, type_: &str, expected: &str, reason: &str) {
        self.sees(
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

    /// Waits until a condition of the virtual server `x` has this status, for whatever reason.
    pub(crate) async fn condition(&self, type_: &str, expected: &str) {
        self.sees(
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

    /// Plays the Deployment's controller and the kubelet: one ready pod per gateway, all of the current revision.
    pub(crate) async fn roll_out(&self, gateways: &[&FakeGateway]) {
        let set = self.replica_set().await;
        for gateway in gateways {
            self.pod(gateway, "ReplicaSet", set.metadata.uid.as_deref().unwrap())
                .await;
        }
        self.observe_deployment(gateways.len()).await;
    }

    /// Plays the Deployment's controller: `count` pods, all current and available.
    pub(crate) async fn observe_deployment(&self, count: usize) {
        let deployment: Deployment = self.child("vmcp-x").await;
        let status = json!({"status": {
            "observedGeneration": deployment.metadata.generation, "replicas": count, "updatedReplicas": count,
            "readyReplicas": count, "availableReplicas": count,
        }});
        self.patch_status::<Deployment>("vmcp-x", &status).await;
    }

    /// The ReplicaSet of the Deployment of the virtual server `x`, as the Deployment's controller would make it.
    async fn replica_set(&self) -> ReplicaSet {
        let deployment: Deployment = self.child("vmcp-x").await;
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
        self.child("vmcp-x-current").await
    }

    /// A ready pod with the labels of a gateway and a controller of this kind and uid.
    pub(crate) async fn pod(&self, gateway: &FakeGateway, kind: &str, owner: &str) {
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
        self.run(&gateway.pod, gateway).await;
    }

    /// Plays the kubelet: the pod `name` is ready, and `gateway` answers at its address.
    pub(crate) async fn run(&self, name: &str, gateway: &FakeGateway) {
        let status = json!({"status": {
            "phase": "Running", "podIP": gateway.address, "podIPs": [{"ip": gateway.address}],
            "conditions": [{"type": "Ready", "status": "True"}],
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

    /// What a gateway of the virtual server `x` wants to see before it says its status.
    pub(crate) async fn status_token(&self) -> String {
        let secret: Secret = self.child("vmcp-x-session-keys").await;
        let text = String::from_utf8(secret.data.unwrap()["current"].0.clone()).unwrap();
        SessionKey::parse(&text)
            .unwrap()
            .status_token(&self.namespace, "x")
    }

    /// The resource versions of everything in the namespace that the operator writes.
    pub(crate) async fn versions(&self) -> Vec<String> {
        let kinds = "vmcp,configmaps,secrets,serviceaccounts,services,deployments,poddisruptionbudgets,pods,events.events.k8s.io";
        let columns = "custom-columns=:kind,:metadata.name,:metadata.resourceVersion";
        let table = server().kubectl(["get", kinds, "-n", &self.namespace, "-o", columns, "--no-headers"]);
        table.unwrap().lines().map(str::to_owned).collect()
    }
}

/// Whether a virtual server says that it is not ready.
pub(crate) fn not_ready(server: &VirtualMCPServer) -> bool {
    server
        .status
        .as_ref()
        .is_some_and(|status| !vmcp_crds::condition::is_true(&status.conditions, "Ready"))
}

/// Polls until `found` gives something.
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

/// The API server of all tests of this program. It ends when the program does.
pub(crate) fn server() -> &'static ApiServer {
    static SERVER: OnceLock<ApiServer> = OnceLock::new();
    SERVER.get_or_init(|| ApiServer::start().unwrap())
}

/// A client of the API server that `file` names.
pub(crate) async fn client_of(file: &Path, user: Option<&str>) -> Client {
    let kubeconfig = Kubeconfig::read_from(file).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    config.auth_info.impersonate = user.map(str::to_owned);
    // The administrator may ask for what the operator may not.
    match user {
        Some(_) => vmcp_operator::api_server::client(config).unwrap(),
        None => Client::try_from(config).unwrap(),
    }
}
