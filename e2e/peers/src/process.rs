//! Programs that run beside a test or a demo, and end with it however it ends.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use rustix::io::Errno;
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

use crate::run::tail;

/// Becomes the program, and leaves a watcher behind that kills the process group when standard input ends. We hold the
/// other end of that pipe, so this also happens when we are killed, or exit without running destructors.
const GUARD: &str = r#"exec 3<&0 </dev/null; { read -r _ <&3; kill -KILL 0; } & exec 3<&-; exec "$@""#;

/// A running program, in a process group of its own, with its output in a file. It is killed with all its children
/// when this value is dropped or this process ends.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    keep_log: bool,
}

impl Process {
    /// Starts `command`; `name` is for logs and errors.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(name: &str, command: &Command) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let log = std::env::temp_dir().join(format!("vmcp-{}-{count}-{name}.log", std::process::id()));
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = guarded(command)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            keep_log: false,
        })
    }

    /// The program's process id, which is also its process group's.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file with what the program prints. It is removed when this value is dropped, unless a test fails or
    /// [`Process::last_words`] has named it.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines that the program printed, and where the rest is: for error messages.
    #[must_use]
    pub fn last_words(&mut self) -> String {
        self.keep_log = true;
        let printed = fs::read(&self.log).unwrap_or_default();
        let printed = tail(&String::from_utf8_lossy(&printed));
        format!(
            "{} printed (all of it in {}):\n{printed}",
            self.name,
            self.log.display()
        )
    }

    /// How the program ended, if it did.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends the program a signal; its children do not get it.
    ///
    /// # Errors
    /// When the program has ended.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        // A process that has ended but was not waited for would take the signal in silence.
        if let Some(status) = self.ended()? {
            anyhow::bail!("cannot signal {}, which has ended: {status}", self.name);
        }
        kill_process(self.pid()?, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Kills the program and its children at once, and returns when the program has ended.
    ///
    /// # Errors
    /// When the program cannot be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let group = self.pid()?;
        match kill_process_group(group, Signal::KILL) {
            // The group is gone when everything in it has ended, which is what is wanted.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot kill {}", self.name)),
        }
        self.child.wait()?;
        Ok(())
    }

    fn pid(&self) -> anyhow::Result<Pid> {
        let id = i32::try_from(self.child.id())?;
        Pid::from_raw(id).context("a process has the id 0")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let killed = self.kill();
        if killed.is_ok() && !self.keep_log && !std::thread::panicking() {
            drop(fs::remove_file(&self.log));
        }
    }
}

fn guarded(command: &Command) -> Command {
    let mut guarded = Command::new("sh");
    guarded
        .args(["-c", GUARD, "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::piped())
        .process_group(0);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => guarded.env(name, value),
            None => guarded.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        guarded.current_dir(dir);
    }
    guarded
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::{Process, Signal, guarded};

    #[test]
    fn a_program_is_killed_when_our_end_of_its_pipe_closes() {
        // This is what happens to it when we are killed.
        let mut child = guarded(Command::new("sleep").arg("600")).spawn().unwrap();
        drop(child.stdin.take());
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    }

    #[test]
    fn a_signal_reaches_the_program_and_a_second_one_says_that_it_has_ended() {
        let mut process = Process::start("sleeper", Command::new("sleep").arg("600")).unwrap();
        process.signal(Signal::TERM).unwrap();
        let status = loop {
            if let Some(status) = process.ended().unwrap() {
                break status;
            }
        };
        assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
        let error = process.signal(Signal::TERM).unwrap_err().to_string();
        assert!(error.contains("sleeper, which has ended"), "{error}");
    }
}
