//! The `vmcp-operator` binary.

use std::fs;
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use vmcp_external::process::{Process, Signal};
use vmcp_external::requires;

use crate::harness::{Harness, eventually, server};

// The binary acquires the Lease, reconciles, serves health and metrics, and releases the Lease on SIGTERM.
#[requires(api_server)]
#[tokio::test]
async fn binary_leads_serves_and_releases_lease() {
    let harness = Harness::without_operator("process").await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcp-operator"));
    command
        .args(["--watch-namespaces", &harness.namespace, "--lease-name", "vmcp"])
        .args(["--admin-listen", "[::]:0", "--log-format", "json"])
        .env("KUBECONFIG", server().kubeconfig())
        .env("POD_NAMESPACE", &harness.namespace)
        .env("POD_NAME", "operator-0")
        .env("VMCP_GATEWAY_IMAGE", "from-the-environment:1");
    let mut operator = Process::start("operator", &command).unwrap();
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let deployment: Deployment = harness.wait_for_object("vmcp-x").await;
    let image = deployment.spec.template.spec.unwrap().containers[0].image.clone();
    assert_eq!(image.as_deref(), Some("from-the-environment:1"));
    let lease: Lease = harness.wait_for_object("vmcp").await;
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("operator-0"));

    let address = eventually("the log contains the admin address", async || {
        admin_address(&operator)
    })
    .await;
    // Clients of both families are served.
    let port = address.rsplit(':').next().unwrap();
    let address = format!("127.0.0.1:{port}");
    for path in ["livez", "readyz"] {
        assert_eq!(get(&address, path).await, "ok\n");
        assert_eq!(get(&format!("[::1]:{port}"), path).await, "ok\n");
    }
    for line in [
        "vmcp_operator_leader 1",
        // Counted when the API server's answer arrives, and others see the Deployment before that.
        "vmcp_operator_applies_total{kind=\"Deployment\"} 1",
        "# EOF",
    ] {
        eventually(&format!("the metrics contain {line}"), async || {
            get(&address, "metrics").await.contains(line).then_some(())
        })
        .await;
    }

    operator.signal(Signal::TERM).unwrap();
    let status = eventually("it ends", async || operator.ended().unwrap()).await;
    assert!(status.success(), "{status}");
    let lease: Lease = harness.wait_for_object("vmcp").await;
    assert_eq!(lease.spec.unwrap().holder_identity, None);
}

#[test]
fn help_lists_environment_variable_of_each_flag() {
    let output = Command::new(env!("CARGO_BIN_EXE_vmcp-operator"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let flags = help
        .lines()
        .filter(|line| line.trim_start().starts_with("--"))
        .count();
    assert_eq!(flags, help.matches("[env: ").count(), "{help}");
    assert!(help.contains("vmcp-crds"), "{help}");
}

#[test]
fn missing_api_server_error_names_kubeconfig() {
    let output = Command::new(env!("CARGO_BIN_EXE_vmcp-operator"))
        .env("KUBECONFIG", "/nonexistent")
        .env("HOME", "/nonexistent")
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.contains("KUBECONFIG"),
        "{error}"
    );
}

/// The address of the admin port, from the log.
pub(crate) fn admin_address(operator: &Process) -> Option<String> {
    let log = fs::read_to_string(operator.log()).unwrap();
    let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter(|line: &Json| line["fields"]["message"] == "admin server listening")
        .find_map(|line| Some(line["fields"]["address"].as_str()?.to_owned()))
}

/// The body of a successful response of the admin port.
async fn get(address: &str, path: &str) -> String {
    let (head, body) = request(address, path).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body
}

/// The head and the body of a response of the admin port.
pub(crate) async fn request(address: &str, path: &str) -> (String, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(Duration::from_secs(30), exchange)
        .await
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}
