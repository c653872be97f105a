//! An API server that lacks the operator's kinds.

use std::process::Command;

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;
use vmcp_cluster::ApiServer;
use vmcp_external::process::Process;
use vmcp_external::requires;

use crate::harness::{Harness, KINDS, OPERATOR, eventually};
use crate::process::{admin_address, request};

/// What to do about a missing kind.
const REMEDY: &str = "helm install vmcp-crds charts/vmcp-crds";

// `/readyz`, the metrics and the status name the kinds that are missing. The operator works as soon as they are installed. The API server is
// one of its own, because kinds are there for all namespaces.
#[requires(api_server)]
#[tokio::test]
async fn missing_kind_is_named_until_it_is_installed() {
    let server = tokio::task::spawn_blocking(|| ApiServer::start().unwrap())
        .await
        .unwrap();
    let harness = Harness::without_kinds(&server, "no-kinds").await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcp-operator"));
    command
        .args(["--watch-namespaces", &harness.namespace])
        .args(["--leader-election", "false", "--admin-listen", "127.0.0.1:0"])
        .args(["--log-format", "json"])
        .env("KUBECONFIG", server.kubeconfig_as(OPERATOR).unwrap());
    let operator = Process::start("operator", &command).unwrap();
    let address = eventually("the log contains the admin address", async || {
        admin_address(&operator)
    })
    .await;
    eventually("/readyz names the kinds", async || {
        let (head, body) = request(&address, "readyz").await;
        let names = |kind| body.contains(&format!("does not have {kind}.vmcp.dev"));
        let is_complete = KINDS.iter().all(names) && body.lines().all(|line| line.contains(REMEDY));
        (head.starts_with("HTTP/1.1 503 ") && is_complete).then_some(())
    })
    .await;
    let (_, metrics) = request(&address, "metrics").await;
    for kind in ["VirtualMCPServer", "MCPGroup", "MCPServer", "MCPServerEntry"] {
        let series = format!(
            "vmcp_operator_watch_failures_total{{namespace=\"{}\",kind=\"{kind}\"}}",
            harness.namespace
        );
        assert!(metrics.contains(&series), "{metrics}");
    }

    // With the other kinds, the status of the virtual server names the missing one.
    harness
        .install_kinds(&server, &["virtualmcpservers", "mcpgroups", "mcpservers"])
        .await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness.wait_for_condition("Ready", "False", "WatchRefused").await;
    // Until the operator has tried the others again, they are named too.
    let named = "does not have mcpserverentries.vmcp.dev (kind MCPServerEntry) in the version v1alpha1: ";
    harness.wait_for_words("Ready", named).await;
    harness.wait_for_words("Ready", REMEDY).await;

    harness.install_kinds(&server, &["mcpserverentries"]).await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;
    eventually("/readyz is satisfied", async || {
        let (head, _) = request(&address, "readyz").await;
        head.starts_with("HTTP/1.1 200 ").then_some(())
    })
    .await;
}
