//! Records the state of the machine that a cluster could change.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use vmcp_cluster::Cluster;

/// Folders of the host that Kubernetes, containerd or the network plugins would write to without namespaces.
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

/// Settings of the kernel that a kubelet would change without namespaces.
const SETTINGS: [&str; 5] = [
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/panic_on_oops",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/panic_on_oom",
];

/// The state of the machine that a cluster could change, one line for each object: the cluster's processes and control
/// groups, and the state of the host that Kubernetes would change without namespaces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Machine(BTreeSet<String>);

impl Machine {
    /// Reads the current state, including that of a cluster in `dir`.
    pub(crate) fn with(dir: &Path) -> Self {
        let mut lines = BTreeSet::new();
        let group = Cluster::control_group(dir).unwrap();
        processes(dir, &group, &mut lines);
        control_groups(Path::new("/sys/fs/cgroup"), &group, &mut lines);
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

    /// Fails if the machine does not return to this state within a minute.
    pub(crate) fn assert_restored(&self, dir: &Path) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let now = Self::with(dir);
            if now == *self {
                return;
            }
            let left: Vec<_> = now.0.difference(&self.0).collect();
            let lost: Vec<_> = self.0.difference(&now.0).collect();
            assert!(Instant::now() < end, "left behind: {left:#?}\nlost: {lost:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Adds the processes of the cluster: those with its folder in an argument, those with its environment, and those of pods,
/// which have a new environment but are in its control groups.
fn processes(dir: &Path, group: &str, lines: &mut BTreeSet<String>) {
    let (dir, variable) = (dir.to_string_lossy(), format!("CGROUP={group}"));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() {
            continue;
        }
        // A process may end while it is read.
        let read = |file: &str| {
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let command = read("cmdline");
        if command.contains(&*dir) || read("environ").contains(&variable) || read("cgroup").contains(group) {
            lines.insert(format!("process {name} {command}"));
        }
    }
}

fn control_groups(dir: &Path, group: &str, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            if path.to_string_lossy().contains(group) {
                lines.insert(format!("control group {}", path.display()));
            }
            control_groups(&path, group, lines);
        }
    }
}
