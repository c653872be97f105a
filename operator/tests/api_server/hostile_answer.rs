//! An API server that answers with what nobody asked for.

use std::fs;
use std::process::Command;

use axum::Router;
use axum::http::{StatusCode, Uri, header};
use axum::response::IntoResponse;
use serde_json::json;
use tokio::net::TcpListener;
use vmcp_peers::process::Process;

use crate::world::eventually;

/// What must not be in the log.
const SECRET: &str = "canary-hunter2-canary";

/// Answers as a hostile or a broken API server does, each kind in another way.
async fn answer(uri: Uri) -> impl IntoResponse {
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

// The client library writes an answer that it cannot read at WARN, whole. No filter lets it.
#[tokio::test]
async fn body_of_an_unreadable_answer_is_not_logged() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
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
        let log = eventually("every watch has broken", async || {
            let log = fs::read_to_string(operator.log()).unwrap();
            let broken = ["Pod", "Service", "Secret"].iter().all(|kind| {
                log.lines().any(|line| {
                    line.contains("a watch broke") && line.contains(&format!("\"kind\":\"{kind}\""))
                })
            });
            broken.then_some(log)
        })
        .await;
        assert!(!log.contains(SECRET), "{filter:?}: {log}");
    }
}
