//! Finds the processes of a cluster.
//!
//! They are found by the path of their script, which contains the cluster's folder, and not by a stored process id, which
//! may have been reused for another process.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

/// A process with its id in the pid namespace of the host.
pub(crate) struct Process {
    pub(crate) pid: Pid,
    arguments: Vec<OsString>,
    /// The process id in the innermost pid namespace: 1 for the first process of a tree.
    inner_pid: u32,
}

impl Process {
    /// Whether this is the first process of the namespaces that run `script` with `arguments`.
    fn is_first_of(&self, script: &Path, arguments: &[&str]) -> bool {
        self.inner_pid == 1 && self.runs(script, arguments)
    }

    /// Whether this is the `unshare` process that waits for the first one.
    fn is_root_of(&self, script: &Path, arguments: &[&str]) -> bool {
        self.inner_pid != 1
            && self.arguments.first().is_some_and(|program| program == "unshare")
            && self.runs(script, arguments)
    }

    fn runs(&self, script: &Path, arguments: &[&str]) -> bool {
        let Some(at) = self
            .arguments
            .iter()
            .position(|argument| argument == script.as_os_str())
        else {
            return false;
        };
        // The first argument of every script is the cluster's folder.
        self.arguments.iter().skip(at + 2).eq(arguments.iter())
    }

    /// Kills the process. It is not an error if it has ended already.
    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        match kill_process(self.pid, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot kill process {}", self.pid)),
        }
    }
}

/// The first process in the namespaces of `script`. Its end kills all other processes in them.
pub(crate) fn first_of(script: &Path, arguments: &[&str]) -> anyhow::Result<Option<Process>> {
    Ok(all()?
        .into_iter()
        .find(|process| process.is_first_of(script, arguments)))
}

/// The `unshare` process that waits for the first process. When it has ended, so has everything in the namespaces.
pub(crate) fn root_of(script: &Path, arguments: &[&str]) -> anyhow::Result<Option<Process>> {
    Ok(all()?
        .into_iter()
        .find(|process| process.is_root_of(script, arguments)))
}

/// A process outside the namespaces that runs `script`.
pub(crate) fn running(script: &Path) -> anyhow::Result<Option<Process>> {
    Ok(all()?.into_iter().find(|process| process.runs(script, &[])))
}

fn all() -> anyhow::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            .and_then(Pid::from_raw)
        else {
            continue;
        };
        // A process that ends while it is read does not count.
        if let Some(process) = read(pid, &entry.path()) {
            found.push(process);
        }
    }
    Ok(found)
}

fn read(pid: Pid, dir: &Path) -> Option<Process> {
    let arguments = fs::read(dir.join("cmdline"))
        .ok()?
        .split(|&byte| byte == 0)
        .map(|argument| OsString::from_vec(argument.to_vec()))
        .collect::<Vec<_>>();
    let arguments = match arguments.split_last() {
        Some((last, rest)) if last.is_empty() => rest.to_vec(),
        _ => arguments,
    };
    let status = fs::read_to_string(dir.join("status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let inner_pid = numbers.split_whitespace().next_back()?.parse().ok()?;
    Some(Process {
        pid,
        arguments,
        inner_pid,
    })
}
