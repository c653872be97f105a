//! An API server that sends malformed responses.

use std::fs;
use std::process::Command;

use axum::Router;
use axum::http::{StatusCode, Uri, header};
use axum::response::IntoResponse;
use serde_json::json;
use tokio::net::TcpListener;
use vmcp_external::process::Process;

use crate::harness::eventually;

/// A value that must not be in the log.
const SECRET: &str = "canary-hunter2-canary";

/// Responds as a hostile or broken API server, differently for each kind.
async fn respond(uri: Uri) -> impl IntoResponse {
    let secrets =
        json!({"kind": "SecretList", "apiVersion": "v1", "metadata": {"note": SECRET}, "items": SECRET});
    let (code, body) = if uri.path().ends_with("/pods") {
        (StatusCode::BAD_GATEWAY, format!("<html>{SECRET}</html>"))
    } else if uri.path().ends_with("/services") {
        (StatusCode::OK, SECRET.to_owned())
    } else {
        (StatusCode::OK, secrets.to_string())
    };
    (code, [(header::CONTENT_TYPE, "application/json")], body)
}

// The client library logs a response that it cannot parse at WARN, with its whole body. No log filter lets that message through.
#[tokio::test]
async fn body_of_malformed_response_is_not_logged() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(respond)).await });
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": url}}], "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    fs::write(&kubeconfig, config.to_string()).unwrap();
    for filter in [
        None,
        Some("trace"),
        Some("kube_client=trace,kube_runtime=trace,hyper=trace,info"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmcp-operator"));
        command
            .args([
                "--leader-election",
                "false",
                "--admin-listen",
                "127.0.0.1:0",
                "--log-format",
                "json",
            ])
            .env("KUBECONFIG", &kubeconfig);
        command.args(filter.iter().flat_map(|filter| ["--log", filter]));
        let operator = Process::start("operator", &command).unwrap();
        let log = eventually("every watch has failed", async || {
            let log = fs::read_to_string(operator.log()).unwrap();
            let have_failed = ["Pod", "Service", "Secret"].iter().all(|kind| {
                log.lines().any(|line| {
                    line.contains("watch failed") && line.contains(&format!("\"kind\":\"{kind}\""))
                })
            });
            have_failed.then_some(log)
        })
        .await;
        assert!(!log.contains(SECRET), "{filter:?}: {log}");
    }
}
