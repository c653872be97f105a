//! A server and the processes that it has left behind.

use std::fs;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, wait};

/// The server and all of its descendants, as children of this process.
#[derive(Debug)]
pub(super) struct Descendants {
    /// The server, which leads a process group.
    server: Pid,
    /// The exit code of the server; after a signal 128 and the signal's number.
    server_exit: Option<u8>,
    exist: bool,
}

impl Descendants {
    pub(super) fn new(server: Pid) -> Self {
        Self {
            server,
            server_exit: None,
            exist: true,
        }
    }

    /// The exit code of the server, if it has exited.
    pub(super) fn server_exit(&self) -> Option<u8> {
        self.server_exit
    }

    /// Whether any of them ran at the last [`Self::reap`].
    pub(super) fn exist(&self) -> bool {
        self.exist
    }

    /// Collects the exit codes of those that have exited.
    pub(super) fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.server => {
                    let signal = || Some(128 + status.terminating_signal()?);
                    let code = status.exit_status().or_else(signal);
                    self.server_exit = Some(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                // There is no child, so there is no descendant: each orphan becomes a child of this process.
                Err(_) => {
                    self.exist = false;
                    return;
                }
            }
        }
    }

    /// Sends `signal` to the server's process group, and to each child of this process: a descendant may have left the group.
    pub(super) fn signal(&self, signal: Signal) {
        if !self.exist {
            return;
        }
        // An error means that they have exited.
        let _exited = kill_process_group(self.server, signal);
        for child in children() {
            let _exited = kill_process(child, signal);
        }
    }
}

/// The children of this process, whichever of its threads adopted them.
fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let listed: String = lists.collect();
    let ids = listed.split_whitespace().filter_map(|id| id.parse().ok());
    ids.filter_map(Pid::from_raw).collect()
}
