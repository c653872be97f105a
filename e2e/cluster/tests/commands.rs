//! The commands of `vmcp-cluster`, which are those of `cargo xtask cluster` and `cargo xtask image`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::{alone, runs_here};
use vmcp_cluster::Cluster;

/// How soon a cluster is ready whose programs are there.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often it may try: the promise is about the cluster, and other work on the machine may take its time.
const ATTEMPTS: u8 = 3;

/// The folder of a cluster, which ends with this value.
struct Place {
    dir: PathBuf,
    _parent: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let parent = tempfile::tempdir_in(vmcp_peers::cache::dir().unwrap()).unwrap();
        Self {
            dir: parent.path().join("cluster"),
            _parent: parent,
        }
    }

    /// Runs a command about this cluster, and returns what it printed, if it succeeds.
    fn run(&self, name: &str, arguments: &[&str]) -> Result<String, String> {
        let dir = self.dir.to_str().unwrap();
        run(&[&[name, "--dir", dir], arguments].concat())
    }

    /// Starts the cluster, and says how long that took.
    fn up(&self) -> Duration {
        let begun = Instant::now();
        let printed = self.run("up", &[]).unwrap();
        assert!(printed.contains("The cluster is ready"), "{printed}");
        begun.elapsed()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = Cluster::end(&self.dir) {
            eprintln!("the cluster in {} did not end: {error:#}", self.dir.display());
        }
    }
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

#[test]
fn a_cluster_is_ready_in_half_a_minute_and_does_what_the_commands_say() {
    if !runs_here() {
        return;
    }
    let _alone = alone();
    Cluster::install().unwrap();
    let place = Place::new();
    let refused = place.run("shell", &["--", "true"]).unwrap_err();
    assert!(refused.contains("start one with `cluster up`"), "{refused}");

    let mut took = place.up();
    for _ in 1..ATTEMPTS {
        if took < READY_WITHIN {
            break;
        }
        place.run("down", &[]).unwrap();
        took = place.up();
    }
    assert!(took < READY_WITHIN, "it took {took:?}");

    let nodes = place.run("shell", &["--", "kubectl", "get", "nodes"]).unwrap();
    for node in ["node1", "node2"] {
        let ready = |line: &str| line.split_whitespace().take(2).eq([node, "Ready"]);
        assert!(nodes.lines().any(ready), "{nodes}");
    }
    place.run("shell", &["--", "false"]).unwrap_err();

    let images = tempfile::tempdir().unwrap();
    let archive = run(&["image", "redis", "--output", images.path().to_str().unwrap()]).unwrap();
    assert!(Path::new(archive.trim()).is_file(), "{archive}");
    place.run("load", &[archive.trim()]).unwrap();
    let image = ["--image=vmcp.dev/redis:7", "--image-pull-policy=Never"];
    for arguments in [
        &[&["run", "redis"], &image[..]].concat()[..],
        &["wait", "--for=condition=Ready", "pod/redis", "--timeout=60s"],
    ] {
        place
            .run("shell", &[&["--", "kubectl"], arguments].concat())
            .unwrap();
    }

    place.run("down", &[]).unwrap();
    place.run("shell", &["--", "true"]).unwrap_err();
}
