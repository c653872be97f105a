//! The commands of `vmcp-cluster`, which are those of `cargo xtask cluster` and `cargo xtask image`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Place, alone, runs_here};
use vmcp_cluster::Cluster;

/// How soon a cluster is ready whose programs are there.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often it may try: the promise is about the cluster, and other work on the machine may take its time.
const ATTEMPTS: u8 = 3;

/// Runs a command about the cluster in `place`, and returns what it printed, if it succeeds.
fn about(place: &Place, name: &str, arguments: &[&str]) -> Result<String, String> {
    let dir = place.dir.to_str().unwrap();
    run(&[&[name, "--dir", dir], arguments].concat())
}

/// Starts the cluster, and says how long that took.
fn up(place: &Place) -> Duration {
    let begun = Instant::now();
    let printed = about(place, "up", &[]).unwrap();
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

/// A cluster is ready in half a minute and does what the commands say.
#[test]
fn cluster_starts_and_its_commands_work() {
    if !runs_here() {
        return;
    }
    let _alone = alone();
    Cluster::install().unwrap();
    let place = Place::new();
    let refused = about(&place, "shell", &["--", "true"]).unwrap_err();
    assert!(refused.contains("start one with `cluster up`"), "{refused}");

    let mut took = up(&place);
    for _ in 1..ATTEMPTS {
        if took < READY_WITHIN {
            break;
        }
        about(&place, "down", &[]).unwrap();
        took = up(&place);
    }
    assert!(took < READY_WITHIN, "it took {took:?}");

    let nodes = about(&place, "shell", &["--", "kubectl", "get", "nodes"]).unwrap();
    for node in ["node1", "node2"] {
        let ready = |line: &str| line.split_whitespace().take(2).eq([node, "Ready"]);
        assert!(nodes.lines().any(ready), "{nodes}");
    }
    about(&place, "shell", &["--", "false"]).unwrap_err();

    let images = tempfile::tempdir().unwrap();
    let archive = run(&["image", "redis", "--output", images.path().to_str().unwrap()]).unwrap();
    assert!(Path::new(archive.trim()).is_file(), "{archive}");
    about(&place, "load", &[archive.trim()]).unwrap();
    let image = ["--image=vmcp.dev/redis:7", "--image-pull-policy=Never"];
    for arguments in [
        &[&["run", "redis"], &image[..]].concat()[..],
        &["wait", "--for=condition=Ready", "pod/redis", "--timeout=60s"],
    ] {
        about(&place, "shell", &[&["--", "kubectl"], arguments].concat()).unwrap();
    }

    about(&place, "down", &[]).unwrap();
    about(&place, "shell", &["--", "true"]).unwrap_err();
}
