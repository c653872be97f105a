//! Tests that a cluster leaves nothing on the machine, in whatever way it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use support::leftovers::Machine;
use support::{ClusterFolder, eventually, exclusive};
use vmcp_cluster::{Cluster, Options};
use vmcp_external::requires;

/// A separate process that runs a cluster command. SIGINT ends it even if the test process ignores SIGINT, as background
/// processes of a shell do.
fn command(name: &str, dir: &Path) -> Command {
    let mut command = Command::new("env");
    command
        .args(["--default-signal=INT", env!("CARGO_BIN_EXE_vmcp-cluster"), name])
        .arg("--dir")
        .arg(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits until the cluster in `dir` has been started partly: the nodes start, and nothing is ready.
fn wait_for_partial_start(dir: &Path) {
    eventually("a node that starts", Duration::from_secs(60), || {
        dir.join("node2/network-wanted").exists()
    });
}

/// The process of `program` that has `script` in an argument.
fn find(program: &str, script: &Path) -> Option<Pid> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let arguments: Vec<_> = command
            .split(|&byte| byte == 0)
            .map(String::from_utf8_lossy)
            .collect();
        let named = arguments.first()?.ends_with(program);
        let ours = arguments
            .iter()
            .any(|argument| argument.contains(&*script.to_string_lossy()));
        (named && ours).then(|| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))?
    })
}

#[requires(cluster)]
#[test]
fn down_leaves_nothing() {
    let _exclusive = exclusive();
    Cluster::install().unwrap();
    let folder = ClusterFolder::new();
    let dir = &folder.dir;
    let before = Machine::with(dir);
    let cluster = Cluster::up(&Options {
        dir: Some(dir.clone()),
        ..Options::default()
    })
    .unwrap();
    cluster
        .kubectl([
            "create",
            "deployment",
            "pods",
            "--image=localhost/pause:1",
            "--replicas=4",
        ])
        .unwrap();
    cluster
        .kubectl(["rollout", "status", "deployment/pods", "--timeout=60s"])
        .unwrap();
    assert_ne!(
        before,
        Machine::with(dir),
        "the check does not notice a running cluster"
    );
    cluster.down().unwrap();
    assert!(!dir.exists(), "the cluster's folder still exists");
    before.assert_restored(dir);
}

#[requires(cluster)]
#[test]
fn failed_up_leaves_nothing_and_names_the_failed_program() {
    let _exclusive = exclusive();
    Cluster::install().unwrap();
    let folder = ClusterFolder::new();
    let dir = &folder.dir;
    let before = Machine::with(dir);
    let error = thread::scope(|scope| {
        let up = scope.spawn(|| {
            Cluster::up(&Options {
                dir: Some(dir.clone()),
                ..Options::default()
            })
        });
        wait_for_partial_start(dir);
        kill_process(find("etcd", dir).unwrap(), Signal::KILL).unwrap();
        up.join().unwrap().unwrap_err()
    });
    let error = format!("{error:#}");
    assert!(error.contains("etcd ended with status 137"), "{error}");
    assert!(!dir.exists(), "the cluster's folder still exists");
    before.assert_restored(dir);
}

#[requires(cluster)]
#[test]
fn ctrl_c_during_up_leaves_nothing() {
    assert_signal_cleans_up(Signal::INT);
}

#[requires(cluster)]
#[test]
fn killed_up_leaves_nothing() {
    assert_signal_cleans_up(Signal::KILL);
}

fn assert_signal_cleans_up(with: Signal) {
    let _exclusive = exclusive();
    Cluster::install().unwrap();
    let folder = ClusterFolder::new();
    let dir = &folder.dir;
    let before = Machine::with(dir);
    let mut up = command("up", dir).spawn().unwrap();
    wait_for_partial_start(dir);
    signal(&up, with);
    assert!(!up.wait().unwrap().success());
    eventually("the end of the cluster's folder", Duration::from_secs(60), || {
        !dir.exists()
    });
    before.assert_restored(dir);
}

#[requires(cluster)]
#[test]
fn down_ends_a_cluster_whose_process_has_ended() {
    let _exclusive = exclusive();
    let folder = ClusterFolder::new();
    let dir = &folder.dir;
    let before = Machine::with(dir);
    assert!(command("up", dir).status().unwrap().success());
    Cluster::open(dir)
        .unwrap()
        .kubectl(["get", "--raw", "/readyz"])
        .unwrap();
    assert!(
        !command("up", dir).status().unwrap().success(),
        "a second one started over the first"
    );
    assert!(command("down", dir).status().unwrap().success());
    assert!(!dir.exists(), "the cluster's folder still exists");
    before.assert_restored(dir);
    assert!(
        command("down", dir).status().unwrap().success(),
        "`down` without a cluster fails"
    );
}

#[requires(cluster)]
#[test]
fn down_cleans_up_when_the_holder_was_killed() {
    let _exclusive = exclusive();
    let folder = ClusterFolder::new();
    let dir = &folder.dir;
    let before = Machine::with(dir);
    assert!(command("up", dir).status().unwrap().success());
    kill_process(find("sh", &dir.join("scripts/tree.sh")).unwrap(), Signal::KILL).unwrap();
    assert!(command("down", dir).status().unwrap().success());
    assert!(!dir.exists(), "the cluster's folder still exists");
    before.assert_restored(dir);
}
