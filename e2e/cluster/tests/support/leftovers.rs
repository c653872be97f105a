//! What a cluster could leave on the machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use super::eventually;

/// Folders of the host that Kubernetes, containerd or the network plugins write to when they are let.
const CUSTOMARY: [&str; 11] = [
    "/etc/cni",
    "/opt/cni",
    "/opt/containerd",
    "/root/.kube",
    "/run/containerd",
    "/run/flannel",
    "/run/netns",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
];

/// Settings of the kernel that a kubelet changes when it is let.
const SETTINGS: [&str; 5] = [
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/panic_on_oops",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/panic_on_oom",
];

/// The machine's state as far as a cluster touches it: one line for each thing that is there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Machine(BTreeSet<String>);

impl Machine {
    pub(crate) fn now() -> Self {
        let mut lines = BTreeSet::new();
        namespaces(&mut lines).unwrap();
        control_groups(Path::new("/sys/fs/cgroup"), &mut lines);
        for interface in fs::read_dir("/sys/class/net").unwrap() {
            lines.insert(format!(
                "interface {}",
                interface.unwrap().file_name().to_string_lossy()
            ));
        }
        for mount in fs::read_to_string("/proc/self/mounts").unwrap().lines() {
            lines.insert(format!("mount {mount}"));
        }
        for table in ["filter", "nat", "mangle"] {
            let rules = Command::new("iptables").args(["-w", "-t", table, "-S"]).output();
            let rules = rules.map(|output| output.stdout).unwrap_or_default();
            lines.extend(
                String::from_utf8_lossy(&rules)
                    .lines()
                    .map(|rule| format!("rule {table} {rule}")),
            );
        }
        lines.extend(
            CUSTOMARY
                .iter()
                .filter(|dir| Path::new(dir).exists())
                .map(|dir| format!("folder {dir}")),
        );
        for setting in SETTINGS {
            let value = fs::read_to_string(setting).unwrap_or_default();
            lines.insert(format!("setting {setting} = {}", value.trim()));
        }
        Self(lines)
    }

    /// Fails when the machine is not back in this state soon.
    pub(crate) fn assert_restored(&self) {
        let mut now = Self::now();
        let limit = Duration::from_secs(15);
        let restored = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("the machine as it was", limit, || {
                now = Self::now();
                now.0.is_subset(&self.0) && self.0.is_subset(&now.0)
            });
        }));
        let (left, lost): (Vec<_>, Vec<_>) = (
            now.0.difference(&self.0).collect(),
            self.0.difference(&now.0).collect(),
        );
        assert!(restored.is_ok(), "left behind: {left:#?}\nlost: {lost:#?}");
    }
}

/// The processes that are in a pid or network namespace other than ours, and those that name a cluster.
fn namespaces(lines: &mut BTreeSet<String>) -> io::Result<()> {
    let ours = [
        fs::read_link("/proc/self/ns/pid")?,
        fs::read_link("/proc/self/ns/net")?,
    ];
    for entry in fs::read_dir("/proc")? {
        let dir = entry?.path();
        let Ok(pid) = dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .parse::<u32>()
        else {
            continue;
        };
        // A process may end while it is read.
        let command = fs::read(dir.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let elsewhere = ["pid", "net"]
            .iter()
            .zip(&ours)
            .any(|(kind, ours)| fs::read_link(dir.join("ns").join(kind)).is_ok_and(|theirs| theirs != *ours));
        if elsewhere || command.contains("/scripts/tree.sh") {
            let status = fs::read_to_string(dir.join("stat")).unwrap_or_default();
            lines.insert(format!("process {pid} {command} {status}"));
        }
    }
    Ok(())
}

fn control_groups(dir: &Path, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            // Whoever runs this test has groups of their own, which come and go.
            let name = path.to_string_lossy();
            if name.contains("vmcp") || name.contains("k8s") || name.contains("kube") {
                lines.insert(format!("control group {name}"));
            }
            control_groups(&path, lines);
        }
    }
}
