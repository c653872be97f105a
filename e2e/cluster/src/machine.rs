//! What a cluster needs of the machine.

use std::fs;
use std::path::Path;

use anyhow::bail;
use vmcp_peers::debian;

/// The folder of the network plugins, where Debian puts them.
pub(crate) const CNI: &str = "/usr/lib/cni";

/// Whether this machine can run a cluster.
///
/// # Errors
/// When it cannot; the message is one sentence that says why.
pub fn supported() -> anyhow::Result<()> {
    if !cfg!(target_os = "linux") {
        bail!("a cluster needs Linux");
    }
    if !debian::is_root() {
        bail!("a cluster needs root, for its namespaces and control groups");
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some("cgroup"))
    {
        bail!("a cluster needs control groups of version 1 under /sys/fs/cgroup, and this machine has none");
    }
    Ok(())
}

/// Installs the programs that Debian has.
pub(crate) fn install_packages() -> anyhow::Result<()> {
    let mut missing = Vec::new();
    for (program, package) in [
        ("containerd", "containerd"),
        ("runc", "runc"),
        ("iptables", "iptables"),
        ("ip", "iproute2"),
        ("unshare", "util-linux"),
        ("nsenter", "util-linux"),
    ] {
        if debian::find(program).is_none() {
            missing.push(package);
        }
    }
    if !Path::new(CNI).join("bridge").exists() {
        missing.push("containernetworking-plugins");
    }
    if missing.is_empty() {
        Ok(())
    } else {
        debian::install(&missing)
    }
}
