//! What the cluster tests have in common.
#![allow(dead_code, reason = "every test binary uses a part")]

pub(crate) mod leftovers;

use std::fs::File;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vmcp_cluster::Cluster;
use vmcp_peers::{cache, left_out};

/// Whether this test runs; says in one line why when it does not. On a machine that cannot run a cluster it is an error
/// to skip when `VMCP_REQUIRE_ALL` is set.
pub(crate) fn runs_here() -> bool {
    if left_out("cluster") {
        return false;
    }
    let Err(reason) = vmcp_cluster::supported() else {
        return true;
    };
    let required = std::env::var_os("VMCP_REQUIRE_ALL").is_some_and(|value| !value.is_empty());
    assert!(
        !required,
        "VMCP_REQUIRE_ALL is set, and this machine cannot run a cluster: {reason:#}"
    );
    eprintln!("left out: {reason:#}");
    false
}

/// One cluster test at a time on this machine: two clusters share two cores badly, and a test that looks for leftovers
/// must not find another's cluster. The lock goes with the value.
pub(crate) fn alone() -> File {
    let dir = cache::dir().unwrap();
    std::fs::create_dir_all(&dir).unwrap();
    let lock = File::create(dir.join("cluster-tests.lock")).unwrap();
    lock.lock().unwrap();
    lock
}

/// A folder for one cluster, on the file system of the cache. A test that fails leaves no cluster in it.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    _parent: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let parent = tempfile::tempdir_in(cache::dir().unwrap()).unwrap();
        Self {
            dir: parent.path().join("cluster"),
            _parent: parent,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = Cluster::end(&self.dir) {
            eprintln!("the cluster in {} did not end: {error:#}", self.dir.display());
        }
    }
}

/// Asks until the answer is yes.
pub(crate) fn eventually(what: &str, limit: Duration, mut ask: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !ask() {
        assert!(Instant::now() < end, "not within {} s: {what}", limit.as_secs());
        thread::sleep(Duration::from_millis(50));
    }
}
