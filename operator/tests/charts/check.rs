//! `helm test`: what its pod runs, on a real API server with the chart's own permissions.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value as Json;
use vmcp_cluster::ApiServer;
use vmcp_external::process::{Process, Signal};
use vmcp_external::requires;

use crate::helm::{NAMESPACE, object, rendered, succeeds};

const OPERATOR: &str = "system:serviceaccount:vmcp-system:vmcp-operator";

/// The operator's program with the environment of a rendered container.
pub(crate) fn program(container: &Json, kubeconfig: &PathBuf, name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcp-operator"));
    command.env("KUBECONFIG", kubeconfig);
    for variable in container["env"].as_array().unwrap() {
        let value = variable["value"]
            .as_str()
            .unwrap_or(match variable["name"].as_str() {
                Some("POD_NAMESPACE") => NAMESPACE,
                _ => name,
            });
        command.env(variable["name"].as_str().unwrap(), value);
    }
    command
}

/// Runs the test pod's container, with a shorter time limit.
fn check(pod: &Json, kubeconfig: &PathBuf) -> Output {
    let container = &pod["spec"]["containers"][0];
    let arguments = container["args"].as_array().unwrap();
    program(container, kubeconfig, "test")
        .args(arguments.iter().filter_map(Json::as_str))
        .args(["--timeout", "10s"])
        .output()
        .unwrap()
}

#[track_caller]
fn assert_fails(output: &Output, expected: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains(expected), "{error}");
}

// The check fails, and says what to do, until the kinds are installed, the permissions are granted, and an operator works. It fails again
// when the operator has died, although the Lease still names it.
#[requires(api_server, helm)]
#[test]
fn check_fails_until_operator_works_and_after_its_death() {
    let objects = rendered(&[]);
    let pod = object(&objects, "Pod", "test").unwrap();
    let server = ApiServer::start().unwrap();
    let admin = server.kubeconfig();
    let user = server.kubeconfig_as(OPERATOR).unwrap();
    assert_fails(&check(pod, &admin), "install the chart vmcp-crds");

    let at = ["--kubeconfig", admin.to_str().unwrap(), "--namespace", NAMESPACE];
    let install = |chart: &str, arguments: &[&str]| {
        succeeds(&[&["install", chart, chart, "--create-namespace"], arguments, &at].concat());
    };
    install("vmcp-crds", &[]);
    server
        .wait_until_served(&["virtualmcpservers", "mcpgroups", "mcpservers", "mcpserverentries"])
        .unwrap();
    assert_fails(&check(pod, &user), "cannot list VirtualMCPServer");

    // No node runs the pods.
    install("vmcp-operator", &["--wait=false"]);
    assert_fails(
        &check(pod, &user),
        "no operator holds the Lease vmcp-system/vmcp-operator",
    );

    let container = &object(&objects, "Deployment", "").unwrap()["spec"]["template"]["spec"]["containers"][0];
    let mut command = program(container, &user, "operator-0");
    command.args(["--admin-listen", "127.0.0.1:0"]);
    let mut operator = Process::start("operator", &command).unwrap();
    let works = check(pod, &user);
    let (out, error) = (
        String::from_utf8_lossy(&works.stdout),
        String::from_utf8_lossy(&works.stderr),
    );
    assert!(works.status.success(), "{out}{error}{}", operator.last_words());
    assert!(out.contains("an operator is active: operator-0"), "{out}");

    operator.signal(Signal::KILL).unwrap();
    assert_fails(
        &check(pod, &user),
        "operator-0 holds the Lease vmcp-system/vmcp-operator but does not renew it",
    );
}
