//! Installation, upgrade and removal of both charts.

use std::time::{Duration, Instant};

use vmcp_cluster::ApiServer;
use vmcp_external::requires;

use crate::helm::succeeds;

/// Time for an API server on a busy machine to serve new definitions.
const SERVE_TIMEOUT: Duration = Duration::from_secs(60);

// Both charts install, upgrade and uninstall, and the CRDs stay after that.
#[requires(helm)]
#[test]
fn charts_install_upgrade_uninstall_and_keep_crds() {
    let server = ApiServer::start().unwrap();
    let kubeconfig = server.kubeconfig();
    let at = [
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
        "--namespace",
        "vmcp-system",
    ];
    let run = |arguments: &[&str]| succeeds(&[arguments, &at].concat());
    let notes = run(&["install", "vmcp-crds", "vmcp-crds", "--create-namespace"]);
    assert!(
        notes.contains("helm install vmcp-operator charts/vmcp-operator"),
        "{notes}"
    );
    // New definitions are served, and explained, after a short delay.
    let answer = |arguments: &[&str]| {
        let end = Instant::now() + SERVE_TIMEOUT;
        loop {
            match server.kubectl(arguments) {
                Ok(answer) if !answer.trim().is_empty() => return answer,
                other => assert!(Instant::now() < end, "kubectl {arguments:?}: {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let served = [
        "api-resources",
        "--api-group=vmcp.dev",
        "--cached=false",
        "-o",
        "name",
    ];
    answer(&served);
    // No node runs the pods, so do not wait for them.
    let notes = run(&["install", "vmcp-operator", "vmcp-operator", "--wait=false"]);
    assert!(
        notes.contains("kubectl wait --for=condition=Ready vmcp/everything"),
        "{notes}"
    );
    assert!(
        notes.contains("helm test vmcp-operator --namespace vmcp-system --logs"),
        "{notes}"
    );
    assert!(!notes.contains("Install the chart vmcp-crds"), "{notes}");
    run(&["upgrade", "vmcp-crds", "vmcp-crds"]);
    run(&[
        "upgrade",
        "vmcp-operator",
        "vmcp-operator",
        "--wait=false",
        "--set",
        "log.filter=debug",
    ]);
    let explained = answer(&["explain", "vmcp.spec.sessionStorage"]);
    assert!(explained.contains("host:port"), "{explained}");
    run(&["uninstall", "vmcp-operator", "--wait=false"]);
    run(&["uninstall", "vmcp-crds", "--wait=false"]);
    let definitions = server.kubectl(["get", "crd", "-o", "name"]).unwrap();
    assert_eq!(
        definitions
            .lines()
            .filter(|name| name.ends_with("vmcp.dev"))
            .count(),
        4,
        "{definitions}"
    );
}
