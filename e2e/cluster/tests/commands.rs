//! Tests of the commands of `vmcp-cluster`, `cargo xtask cluster` and `cargo xtask image`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{ClusterFolder, exclusive};
use vmcp_cluster::Cluster;
use vmcp_external::requires;

/// Time in which a cluster becomes ready if its programs are built.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Attempts to reach that time. Other load on the machine may slow down the start.
const ATTEMPTS: u8 = 3;

/// Runs the command `name` for the cluster in `folder`. Returns its output, or standard error if it fails.
fn cluster_command(folder: &ClusterFolder, name: &str, arguments: &[&str]) -> Result<String, String> {
    let dir = folder.dir.to_str().unwrap();
    run(&[&[name, "--dir", dir], arguments].concat())
}

/// Starts the cluster, and returns the time that it took.
fn up(folder: &ClusterFolder) -> Duration {
    let begun = Instant::now();
    let printed = cluster_command(folder, "up", &[]).unwrap();
    assert!(printed.contains("The cluster is ready"), "{printed}");
    begun.elapsed()
}

fn run(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_vmcp-cluster"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// A cluster starts within half a minute, and the other commands work.
#[requires(cluster)]
#[test]
fn cluster_starts_and_its_commands_work() {
    let _exclusive = exclusive();
    Cluster::install().unwrap();
    let folder = ClusterFolder::new();
    let refused = cluster_command(&folder, "shell", &["--", "true"]).unwrap_err();
    assert!(refused.contains("start one with `cluster up`"), "{refused}");

    let mut took = up(&folder);
    for _ in 1..ATTEMPTS {
        if took < READY_WITHIN {
            break;
        }
        cluster_command(&folder, "down", &[]).unwrap();
        took = up(&folder);
    }
    assert!(took < READY_WITHIN, "it took {took:?}");

    let nodes = cluster_command(&folder, "shell", &["--", "kubectl", "get", "nodes"]).unwrap();
    for node in ["node1", "node2"] {
        let ready = |line: &str| line.split_whitespace().take(2).eq([node, "Ready"]);
        assert!(nodes.lines().any(ready), "{nodes}");
    }
    cluster_command(&folder, "shell", &["--", "false"]).unwrap_err();

    let images = tempfile::tempdir().unwrap();
    let archive = run(&["image", "redis", "--output", images.path().to_str().unwrap()]).unwrap();
    assert!(Path::new(archive.trim()).is_file(), "{archive}");
    cluster_command(&folder, "load", &[archive.trim()]).unwrap();
    let image = ["--image=vmcp.dev/redis:7", "--image-pull-policy=Never"];
    for arguments in [
        &[&["run", "redis"], &image[..]].concat()[..],
        &["wait", "--for=condition=Ready", "pod/redis", "--timeout=60s"],
    ] {
        cluster_command(&folder, "shell", &[&["--", "kubectl"], arguments].concat()).unwrap();
    }

    cluster_command(&folder, "down", &[]).unwrap();
    cluster_command(&folder, "shell", &["--", "true"]).unwrap_err();
}
