//! Checks and installs what a cluster needs on the machine.

use std::fs;
use std::path::Path;

use anyhow::bail;
use vmcp_external::debian;

/// Debian's folder of the network plugins.
pub(crate) const CNI: &str = "/usr/lib/cni";

/// Checks whether this machine can run a cluster.
///
/// # Errors
/// If it cannot; the message is one sentence with the reason.
pub(crate) fn supported() -> anyhow::Result<()> {
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

/// Installs the programs that are Debian packages.
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
