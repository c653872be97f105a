//! Confines a process to one core and the memory of a pod, with control groups of version 1 or 2.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Process;
use anyhow::{Context as _, ensure};

/// Where the control groups of memory are, and the file with the limit, in version 1 and in version 2.
const VERSIONS: [(&str, &str); 2] = [
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
    ("/sys/fs/cgroup", "memory.max"),
];

/// A control group with a limit of memory, and two cores. The group is removed with this value.
#[derive(Debug)]
pub struct Confined {
    group: PathBuf,
    /// The core of the confined processes.
    core: usize,
    /// The cores of everything else.
    others: usize,
}

impl Confined {
    /// A group whose processes may have `bytes` of memory.
    ///
    /// # Errors
    /// When this system or this user has no such groups, with the reason.
    pub fn new(bytes: u64) -> anyhow::Result<Self> {
        let [core, others, ..] = *cores()? else {
            anyhow::bail!("there is one core only, and two are needed");
        };
        let found = VERSIONS.into_iter().find(|(mount, file)| {
            // The root of version 2 has no limit of its own; its children do where the controller is on.
            let on = fs::read_to_string(Path::new(mount).join("cgroup.subtree_control"));
            Path::new(mount).join(file).is_file()
                || on.is_ok_and(|on| on.split(' ').any(|name| name.trim() == "memory"))
        });
        let (mount, file) = found.context("the kernel has no control groups of memory")?;
        let group = Path::new(mount).join(format!("vmcp-hostile-{}", std::process::id()));
        fs::create_dir(&group)
            .with_context(|| format!("cannot create the control group {}", group.display()))?;
        let confined = Self { group, core, others };
        let limit = confined.group.join(file);
        fs::write(&limit, bytes.to_string()).with_context(|| format!("cannot write {}", limit.display()))?;
        Ok(confined)
    }

    /// A command prefix that confines a process from its start.
    #[must_use]
    pub fn wrapper(&self) -> Vec<String> {
        let script = format!(
            "echo $$ > '{}/cgroup.procs' && exec taskset -c {} \"$@\"",
            self.group.display(),
            self.core
        );
        ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }

    /// Moves this process and its later children away from the confined core.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn move_this_process(&self) -> anyhow::Result<()> {
        let this = std::process::id().to_string();
        let moved = Command::new("taskset")
            .args(["-a", "-p", "-c", &self.others.to_string(), &this])
            .output()
            .context("cannot run taskset, of Debian's util-linux")?;
        ensure!(
            moved.status.success(),
            "taskset: {}",
            String::from_utf8_lossy(&moved.stderr)
        );
        Ok(())
    }

    /// Starts a process that competes for the confined core, until it is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn busy_neighbour(&self) -> anyhow::Result<Process> {
        let mut command = Command::new("taskset");
        command.args(["-c", &self.core.to_string(), "sh", "-c", "while :; do :; done"]);
        Process::start("neighbour", &command)
    }
}

/// A command that starts `program` as a process which runs only when no other one wants its core (`SCHED_IDLE`). A low priority is not
/// enough for a load generator beside the clients that are measured: the scheduler lets a thread of any priority finish its time slice of
/// several milliseconds.
#[must_use]
pub fn idle_command(program: &Path) -> Command {
    let mut command = Command::new("chrt");
    command.args(["--idle", "0"]).arg(program);
    command
}

impl Drop for Confined {
    fn drop(&mut self) {
        // Its processes end a moment after they were killed.
        for _ in 0..50 {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        eprintln!("the control group {} is left behind", self.group.display());
    }
}

/// The cores that this process may use.
fn cores() -> anyhow::Result<Vec<usize>> {
    let status = fs::read_to_string("/proc/self/status").context("this needs Linux")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let mut cores = Vec::new();
    for part in line.unwrap_or_default().trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cores.extend(first.parse::<usize>()?..=last.parse()?);
    }
    Ok(cores)
}
