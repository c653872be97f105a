//! Reads the memory limit of this process's control group, which is the limit of the pod.

use std::path::{Path, PathBuf};

/// In version 1, control groups without a limit report a number above this.
const NO_LIMIT: u64 = 1 << 60;

/// The lowest limit of the control groups of this process. `None` if none has a limit.
pub(super) fn of_this_process() -> Option<usize> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    least(&groups, |file| std::fs::read_to_string(file).ok())
}

/// The lowest limit for a process whose `/proc/self/cgroup` contains `groups`. In a container, the path there may be outside the mounted
/// hierarchy. The root of the mount is then the group of the process.
fn least(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<usize> {
    let limits = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next().unwrap_or_default();
        let group = parts.next().unwrap_or_default();
        let (mount, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            named if named.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        let group = Path::new(mount).join(group.trim_start_matches('/'));
        let ancestors = group.ancestors().take_while(|path| path.starts_with(mount));
        let files: Vec<PathBuf> = ancestors.map(|path| path.join(file)).collect();
        files.iter().filter_map(|file| limit(&read(file)?)).collect()
    });
    limits.min()
}

/// Parses the content of a limit file. `None` if it sets no limit, as `max` does.
fn limit(text: &str) -> Option<usize> {
    let bytes: u64 = text.trim().parse().ok()?;
    (bytes < NO_LIMIT).then(|| usize::try_from(bytes).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(groups: &str, files: &[(&str, &str)]) -> Option<usize> {
        least(groups, |path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some(file.1.to_owned())
        })
    }

    #[test]
    fn memory_limit_is_the_lowest_of_all_ancestors() {
        let two = "0::/kubepods/pod1/c1\n";
        let files = [
            ("/sys/fs/cgroup/kubepods/pod1/c1/memory.max", "max\n"),
            ("/sys/fs/cgroup/kubepods/pod1/memory.max", "536870912\n"),
            ("/sys/fs/cgroup/kubepods/memory.max", "8589934592\n"),
        ];
        assert_eq!(found(two, &files), Some(512 << 20));
        assert_eq!(
            found("0::/../../c1\n", &[("/sys/fs/cgroup/memory.max", "1000\n")]),
            Some(1000)
        );
    }

    #[test]
    fn version_1_limit_is_found_and_may_be_missing() {
        let one = "9:cpu,cpuacct:/a\n4:memory:/docker/abc\n0::/\n";
        let inside = [("/sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n")];
        assert_eq!(found(one, &inside), Some(512 << 20));
        let none = [(
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        )];
        assert_eq!(found(one, &none), None);
        assert_eq!(found("", &[]), None);
    }
}
