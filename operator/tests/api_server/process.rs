//! The program itself.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;

use crate::world::{World, eventually, server};

/// Killed when the test ends in any way.
struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn the_program_takes_the_lease_works_tells_its_health_and_gives_the_lease_back_on_sigterm() {
    let Some(world) = World::without_operator("process").await else {
        return;
    };
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut operator = Operator(
        Command::new(env!("CARGO_BIN_EXE_vmcp-operator"))
            .args(["--watch-namespaces", &world.namespace, "--lease-name", "vmcp"])
            .args(["--admin-listen", &format!("127.0.0.1:{port}")])
            .env("KUBECONFIG", server().kubeconfig())
            .env("POD_NAMESPACE", &world.namespace)
            .env("POD_NAME", "operator-0")
            .env("VMCP_GATEWAY_IMAGE", "from-the-environment:1")
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    world.group(&[]).await;
    world.server(json!({})).await;
    let deployment: Deployment = world.child("vmcp-x").await;
    let image = deployment.spec.template.spec.unwrap().containers[0].image.clone();
    assert_eq!(image.as_deref(), Some("from-the-environment:1"));
    let lease: Lease = world.child("vmcp").await;
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("operator-0"));

    for path in ["livez", "readyz"] {
        assert_eq!(get(port, path).await, "ok\n");
    }
    let metrics = get(port, "metrics").await;
    for line in [
        "vmcp_operator_leader 1",
        "vmcp_operator_applies_total{kind=\"Deployment\"} 1",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }

    let id = operator.0.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    let status = eventually("it ends", async || operator.0.try_wait().unwrap()).await;
    assert!(status.success(), "{status}");
    let lease: Lease = world.child("vmcp").await;
    assert_eq!(lease.spec.unwrap().holder_identity, None);
}

#[test]
fn the_help_names_every_flag_with_its_environment_variable() {
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
fn without_an_api_server_the_program_says_where_it_looked() {
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

async fn get(port: u16, path: &str) -> String {
    let url = format!("http://127.0.0.1:{port}/{path}");
    let fetched = tokio::task::spawn_blocking(move || {
        Command::new("curl")
            .args(["--silent", "--fail", "--max-time", "5", &url])
            .output()
            .unwrap()
    });
    let output = tokio::time::timeout(Duration::from_secs(10), fetched)
        .await
        .unwrap()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
