//! Tests of the API server without a cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::net::TcpStream;
use std::time::Duration;

use support::eventually;
use vmcp_cluster::ApiServer;
use vmcp_external::requires;

#[requires(api_server)]
#[test]
fn api_server_responds_and_leaves_nothing() {
    let server = ApiServer::start().unwrap();
    assert!(
        server
            .kubectl(["get", "namespaces", "-o", "name"])
            .unwrap()
            .contains("namespace/")
    );
    let (address, kubeconfig) = (
        server.url().trim_start_matches("https://").to_owned(),
        server.kubeconfig(),
    );
    drop(server);
    assert!(TcpStream::connect(address).is_err(), "it still listens");
    assert!(!kubeconfig.parent().unwrap().exists(), "its folder is there");
}

#[requires(api_server)]
#[test]
fn controllers_delete_orphans_of_deleted_owner() {
    let server = ApiServer::start_with_controllers().unwrap();
    server
        .kubectl(["create", "deployment", "owner", "--image=none"])
        .unwrap();
    let owned = || server.kubectl(["get", "replicasets", "-o", "name"]).unwrap();
    eventually("a ReplicaSet", Duration::from_secs(60), || !owned().is_empty());
    server
        .kubectl(["delete", "deployment", "owner", "--cascade=background"])
        .unwrap();
    eventually("no ReplicaSet", Duration::from_secs(60), || owned().is_empty());
}
