//! The operator's memory in a namespace with many Secrets.

use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use vmcp_external::process::Process;
use vmcp_external::requires;

use crate::harness::{Harness, server};

/// Number of Secrets that no spec names.
const SECRETS: usize = 300;
/// Bytes in each of them.
const SECRET_BYTES: usize = 100 * 1024;
/// Memory that the metadata of all Secrets may need: a third of their values.
const MAX_GROWTH_BYTES: u64 = (SECRETS * SECRET_BYTES / 3) as u64;

fn start_operator(harness: &Harness) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcp-operator"));
    command
        .args([
            "--watch-namespaces",
            &harness.namespace,
            "--leader-election",
            "false",
        ])
        .args(["--admin-listen", "[::]:0", "--log-format", "json"])
        .env("KUBECONFIG", server().kubeconfig());
    Process::start("operator", &command).unwrap()
}

/// The most memory that the process has used so far.
fn peak_bytes(operator: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.id())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes * 1024
}

async fn apply_secret(harness: &Harness, name: &str, bytes: usize) {
    let value = BASE64_STANDARD.encode("x".repeat(bytes));
    harness
        .apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"token": value},
        }))
        .await;
}

/// Adds a backend that needs the Secret `name`, and waits until the operator has seen the Secret, and so all that were created before.
async fn wait_until_seen(harness: &Harness, name: &str) {
    harness
        .apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": "time"},
            "spec": {
                "groupRef": {"name": "group"}, "url": "http://time:8000/mcp",
                "headers": {"X-Token": {"secretKeyRef": {"name": name, "key": "token"}}},
            },
        }))
        .await;
    harness
        .wait_for_condition("SecretsResolved", "False", "SecretNotFound")
        .await;
    apply_secret(harness, name, 100).await;
    harness
        .wait_for_condition("SecretsResolved", "True", "SecretsResolved")
        .await;
}

// The operator watches the metadata of Secrets, and reads only those that specs name. The values of hundreds of others are never in its
// memory, neither when they are created nor when it starts.
#[requires(api_server)]
#[tokio::test]
async fn values_of_unrelated_secrets_are_not_in_memory() {
    let harness = Harness::without_operator("memory").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let operator = start_operator(&harness);
    wait_until_seen(&harness, "first").await;
    let before = peak_bytes(&operator);
    for number in 0..SECRETS {
        apply_secret(&harness, &format!("unrelated-{number}"), SECRET_BYTES).await;
    }
    wait_until_seen(&harness, "second").await;
    let watched = peak_bytes(&operator);
    drop(operator);
    let operator = start_operator(&harness);
    wait_until_seen(&harness, "third").await;
    let listed = peak_bytes(&operator);
    println!(
        "peak: {before} bytes before, {watched} while {SECRETS} Secrets were created, {listed} after a start beside them"
    );
    for grown in [watched, listed] {
        assert!(
            grown.saturating_sub(before) < MAX_GROWTH_BYTES,
            "{before} before, {grown} with {SECRETS} unrelated Secrets"
        );
    }
}
