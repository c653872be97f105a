//! Child processes that end with the test or the demo, however it ends.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};

use anyhow::Context as _;
use rustix::io::Errno;
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

use crate::run::tail;

/// Becomes the program, and leaves a watcher behind that kills the process group when standard input ends. We hold the
/// other end of that pipe, so this also happens when we are killed, or exit without running destructors. The watcher removes the log, too,
/// unless it was told to keep it.
const GUARD: &str = r#"log=$1; shift; exec 3<&0 </dev/null
{ while read -r _ <&3; do keep=1; done; [ "$keep" ] || rm -f "$log"; kill -KILL 0; } & exec 3<&-; exec "$@""#;

/// The watchers of running programs. After a panic a test has most likely failed, so they keep their logs.
static WATCHERS: Mutex<Vec<Weak<Watcher>>> = Mutex::new(Vec::new());

/// Our end of a watcher's pipe.
#[derive(Debug)]
struct Watcher(Mutex<Option<ChildStdin>>);

impl Watcher {
    /// Keeps the log.
    fn keep_log(&self) {
        if let Some(pipe) = &mut *locked(&self.0) {
            // The watcher of an ended program keeps its log.
            drop(pipe.write_all(b"keep\n"));
        }
    }

    fn note(pipe: Option<ChildStdin>) -> Arc<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |what| {
                let watchers: Vec<_> = locked(&WATCHERS).iter().filter_map(Weak::upgrade).collect();
                watchers.iter().for_each(|watcher| watcher.keep_log());
                before(what);
            }));
        });
        let watcher = Arc::new(Self(Mutex::new(pipe)));
        let mut watchers = locked(&WATCHERS);
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(&watcher));
        watcher
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running program, in a process group of its own, with its output in a file. It is killed with all its children
/// when this value is dropped or this process ends.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    keep_log: bool,
    watcher: Arc<Watcher>,
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
        let mut child = guarded(command, &log)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let watcher = Watcher::note(child.stdin.take());
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            keep_log: false,
            watcher,
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

    /// The end of the program's output, and the path of the whole output: for error messages.
    #[must_use]
    pub fn last_words(&mut self) -> String {
        self.keep_log = true;
        self.watcher.keep_log();
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
        // A zombie would accept the signal without an error.
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
            // A missing group means that all its processes have ended.
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

fn guarded(command: &Command, log: &Path) -> Command {
    let mut guarded = Command::new("sh");
    guarded
        .args(["-c", GUARD, "sh"])
        .arg(log)
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

    use super::*;

    #[test]
    fn program_is_killed_when_its_pipe_closes() {
        // As when this process is killed.
        let mut child = guarded(Command::new("sleep").arg("600"), Path::new(""))
            .spawn()
            .unwrap();
        drop(child.stdin.take());
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    }

    // A log is removed with the process, unless it was asked for or something panicked.
    #[test]
    fn log_is_kept_only_on_request_or_panic() {
        let start = || Process::start("sleeper", Command::new("sleep").arg("600")).unwrap();
        // A value in a static is never dropped.
        let left = |mut process: Process| {
            let log = process.log.clone();
            drop(locked(&process.watcher.0).take());
            process.child.wait().unwrap();
            let _held = std::mem::ManuallyDrop::new(process);
            let is_left = log.exists();
            drop(fs::remove_file(log));
            is_left
        };
        assert!(!left(start()));
        let mut asked = start();
        assert!(asked.last_words().contains("sleeper printed"));
        assert!(left(asked));
        let witness = start();
        assert!(panic::catch_unwind(|| panic!("on purpose")).is_err());
        assert!(left(witness));
    }

    // A signal reaches the program, and a second one fails because the program has ended.
    #[test]
    fn signal_reaches_program_and_second_reports_exit() {
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
