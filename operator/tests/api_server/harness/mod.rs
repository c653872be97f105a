//! Test harness: one namespace per test, on one API server for all tests.

mod mcp_server;
mod operator;
mod wait;
mod workload;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config, Resource};
use serde_json::{Value as Json, json};
use vmcp_cluster::ApiServer;
use vmcp_operator::pod_user::PodUser;

pub(crate) use mcp_server::message_of;
use operator::Operator;
pub(crate) use wait::{eventually, is_not_ready};

/// The user as which the operator calls the API server.
pub(crate) const OPERATOR: &str = "system:serviceaccount:vmcp-system:vmcp-operator";
/// The rights that the chart gives the operator.
pub(crate) const RULES: &str = include_str!("../../../../charts/vmcp-operator/files/rules.yaml");
/// The operator's kinds, in plural.
pub(crate) const KINDS: [&str; 4] = ["virtualmcpservers", "mcpgroups", "mcpservers", "mcpserverentries"];

/// A namespace, and an operator that watches it.
pub(crate) struct Harness {
    /// A client with administrator rights.
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// The administrator's kubeconfig, which the operator uses, too, as another user.
    pub(crate) kubeconfig: PathBuf,
    /// The setting of operators that start from now on.
    pub(crate) pod_user: PodUser,
    operator: Option<Operator>,
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
            pod_user: PodUser::default(),
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
        server.wait_until_served(kinds).unwrap();
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
