//! The operator in some namespaces only, with what the chart grants there.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use vmcp_cluster::ApiServer;
use vmcp_external::process::Process;
use vmcp_external::requires;

use crate::check::program;
use crate::helm::{NAMESPACE, object, rendered, succeeds};

const OPERATOR: &str = "system:serviceaccount:vmcp-system:vmcp-operator";
const WATCHED: [&str; 2] = ["team-a", "team-b"];
const OTHER: &str = "team-c";
/// Time limit of every wait, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn apply(server: &ApiServer, namespace: &str, kind: &str, name: &str, spec: &Json) {
    let object =
        json!({"apiVersion": "vmcp.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), object.to_string()).unwrap();
    let path = file.path().to_str().unwrap();
    server.kubectl(["apply", "-n", namespace, "-f", path]).unwrap();
}

// With `watchNamespaces` the chart has Roles only, and with them the operator leads and reconciles in these namespaces. It asks for nothing elsewhere, and no
// request is refused.
#[requires(api_server, helm)]
#[test]
fn roles_of_watched_namespaces_are_enough() {
    let arguments = ["--set", "watchNamespaces={team-a,team-b}"];
    let objects = rendered(&arguments);
    let is_of_cluster = |object: &&Json| object["kind"].as_str().unwrap().starts_with("Cluster");
    assert_eq!(objects.iter().find(is_of_cluster), None);

    let server = ApiServer::start().unwrap();
    let admin = server.kubeconfig();
    let at = ["--kubeconfig", admin.to_str().unwrap(), "--namespace", NAMESPACE];
    for namespace in WATCHED.into_iter().chain([OTHER]) {
        server.kubectl(["create", "namespace", namespace]).unwrap();
    }
    let install = ["install", "vmcp-crds", "vmcp-crds", "--create-namespace"];
    succeeds(&[&install[..], &at].concat());
    let install = ["install", "vmcp-operator", "vmcp-operator", "--wait=false"];
    succeeds(&[&install[..], &arguments, &at].concat());
    for kind in ["virtualmcpservers", "mcpgroups", "mcpservers", "mcpserverentries"] {
        eventually("the kinds are served", || {
            server.kubectl(["get", kind, "-A"]).is_ok()
        });
    }
    let bindings = server
        .kubectl(["get", "clusterrolebindings", "-o", "json"])
        .unwrap();
    assert!(!bindings.contains(NAMESPACE), "{bindings}");

    let container = &object(&objects, "Deployment", "").unwrap()["spec"]["template"]["spec"]["containers"][0];
    let mut command = program(container, &server.kubeconfig_as(OPERATOR).unwrap(), "operator-0");
    command.args(["--admin-listen", "127.0.0.1:0"]);
    let _operator = Process::start("operator", &command).unwrap();
    for namespace in WATCHED.into_iter().chain([OTHER]) {
        apply(&server, namespace, "MCPGroup", "tools", &json!({}));
        apply(
            &server,
            namespace,
            "VirtualMCPServer",
            "everything",
            &json!({"groupRef": {"name": "tools"}}),
        );
        apply(
            &server,
            namespace,
            "MCPServer",
            "weather",
            &json!({"groupRef": {"name": "tools"}, "npm": {"package": "weather"}}),
        );
    }
    for namespace in WATCHED {
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].reason}"#;
        eventually("the operator reconciles", || {
            let reason = server.kubectl(["get", "vmcp", "everything", "-n", namespace, "-o", ready]);
            reason.is_ok_and(|reason| reason == "DeploymentProgressing")
        });
        server
            .kubectl(["get", "deployment", "vmcp-everything", "-n", namespace])
            .unwrap();
        eventually("the operator runs the server", || {
            let reason = server.kubectl(["get", "mcps", "weather", "-n", namespace, "-o", ready]);
            reason.is_ok_and(|reason| reason == "DeploymentProgressing")
        });
    }
    let holder = "jsonpath={.spec.holderIdentity}";
    let holder = server.kubectl(["get", "lease", "vmcp-operator", "-n", NAMESPACE, "-o", holder]);
    assert_eq!(holder.unwrap(), "operator-0");

    let requests = server.requests_of(OPERATOR).unwrap();
    let allowed = [WATCHED[0], WATCHED[1], NAMESPACE].map(|namespace| format!("/namespaces/{namespace}"));
    for request in &requests {
        let path = request.uri.split('?').next().unwrap();
        let is_inside = allowed.iter().any(|part| {
            path.split_once(part)
                .is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with('/'))
        });
        assert!(is_inside && request.code != 403, "{request:?}");
    }
    assert!(
        server
            .kubectl(["get", "deployment", "vmcp-everything", "-n", OTHER])
            .is_err()
    );
}
