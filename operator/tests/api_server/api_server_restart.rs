//! An API server that ends and starts again.

use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use vmcp_cluster::ApiServer;
use vmcp_external::process::Process;
use vmcp_external::requires;

use crate::harness::{Harness, OPERATOR, eventually};
use crate::process::{admin_address, request};

/// How long the operator may take to see changes after the API server is back: the longest pause between two attempts of a watch, and time for
/// the attempts.
const RECOVERY_TIME: Duration = Duration::from_secs(20);
/// An outage in which several attempts of each watch fail.
const OUTAGE: Duration = Duration::from_secs(5);

// The process of the operator outlives two outages of the API server: it reconciles what is changed after each, and repairs what was
// deleted in the meantime.
#[requires(api_server)]
#[tokio::test]
async fn operator_outlives_killed_api_server() {
    let server = tokio::task::spawn_blocking(|| ApiServer::start().unwrap())
        .await
        .unwrap();
    let harness = Harness::on(&server, "restart").await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcp-operator"));
    command
        .args([
            "--watch-namespaces",
            &harness.namespace,
            "--leader-election",
            "false",
        ])
        .args(["--admin-listen", "127.0.0.1:0", "--log-format", "json"])
        .env("KUBECONFIG", server.kubeconfig_as(OPERATOR).unwrap());
    let mut operator = Process::start("operator", &command).unwrap();
    harness.apply_group(&[]).await;
    harness.apply_server(json!({"image": "gateway:0"})).await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;

    for outage in 1..=2 {
        server.kill().unwrap();
        tokio::time::sleep(OUTAGE).await;
        server.start_again().unwrap();
        let back = Instant::now();
        let image = format!("gateway:{outage}");
        harness.apply_server(json!({"image": image})).await;
        harness
            .api::<Service>()
            .delete("vmcp-x", &Default::default())
            .await
            .unwrap();
        let has_image = |deployment: &Deployment| {
            let pod = deployment.spec.template.spec.as_ref()?;
            (pod.containers[0].image.as_ref() == Some(&image)).then_some(())
        };
        harness
            .wait_for("the change is applied", "vmcp-x", has_image)
            .await;
        harness.wait_for_object::<Service>("vmcp-x").await;
        assert!(back.elapsed() < RECOVERY_TIME, "{:?}", back.elapsed());
        assert_eq!(operator.ended().unwrap(), None, "{}", operator.last_words());
    }
    let address = admin_address(&operator).unwrap();
    eventually("it is ready", async || {
        let (head, _) = request(&address, "readyz").await;
        head.starts_with("HTTP/1.1 200 ").then_some(())
    })
    .await;
}
