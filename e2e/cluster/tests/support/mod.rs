//! Shared helpers of the cluster tests.
#![allow(dead_code, reason = "every test binary uses a part")]

pub(crate) mod leftovers;

use std::fs::File;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vmcp_cluster::Cluster;
use vmcp_external::cache;

/// Locks the cluster tests of this machine, so that only one runs at a time. Two clusters would be too slow on two cores, and a
/// test that looks for leftovers must not find the cluster of another test. Dropping the value unlocks.
pub(crate) fn exclusive() -> File {
    let dir = cache::dir().unwrap();
    std::fs::create_dir_all(&dir).unwrap();
    let lock = File::create(dir.join("cluster-tests.lock")).unwrap();
    lock.lock().unwrap();
    lock
}

/// A folder for one cluster, on the file system of the cache. The cluster ends with the value, even if the test fails.
pub(crate) struct ClusterFolder {
    pub(crate) dir: PathBuf,
    _parent: TempDir,
}

impl ClusterFolder {
    pub(crate) fn new() -> Self {
        let parent = tempfile::tempdir_in(cache::dir().unwrap()).unwrap();
        Self {
            dir: parent.path().join("cluster"),
            _parent: parent,
        }
    }
}

impl Drop for ClusterFolder {
    fn drop(&mut self) {
        if let Err(error) = Cluster::end(&self.dir) {
            eprintln!("the cluster in {} did not end: {error:#}", self.dir.display());
        }
    }
}

/// Waits until `condition` is true, and panics after `limit`.
pub(crate) fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < end, "not within {} s: {what}", limit.as_secs());
        thread::sleep(Duration::from_millis(50));
    }
}
