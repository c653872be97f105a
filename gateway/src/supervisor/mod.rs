//! `vmcp-gateway supervise`: runs one MCP server for the gateway, and ends it together with all of its descendants.
//!
//! The server inherits the standard streams, so its messages do not pass through this process. This process is the parent of the server,
//! adopts what the server leaves behind, and exits last. It ends them all
//!
//! - when the gateway asks for it (SIGTERM), after it has closed the server's standard input,
//! - when the gateway is gone, even after SIGKILL: then the pipe behind standard error has no reader, which poll reports as an error,
//! - when the server has exited.
//!
//! The order is that of the specification (2025-11-25, basic/lifecycle): the input has ended; after 2 s SIGTERM; after 3 s SIGKILL.

mod descendants;

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use descendants::Descendants;

/// How long the server may take to exit after the end of its input.
const EXIT_GRACE: Duration = Duration::from_secs(2);
/// How long the server and its descendants may take to exit after SIGTERM.
const TERMINATION_GRACE: Duration = Duration::from_secs(3);
/// Pause between two rounds of SIGKILL, for processes that are created meanwhile.
const KILL_INTERVAL: Duration = Duration::from_millis(20);

/// Exit code if the program does not exist, as of a shell.
const NOT_FOUND: u8 = 127;
/// Exit code if the program cannot be executed, as of a shell.
const NOT_EXECUTABLE: u8 = 126;

/// Runs the program with its arguments until it and all of its descendants have ended. Returns the exit code of the program; after a
/// signal 128 and the signal's number.
///
/// # Errors
/// When the system refuses what supervision needs.
pub fn supervise(program: &str, arguments: &[String]) -> anyhow::Result<ExitCode> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Before the start of the program, so that no signal is missed.
        let mut exits = signal(SignalKind::child())?;
        let mut stop = signal(SignalKind::terminate())?;
        // Ctrl-C in a terminal is for the gateway, which then ends the server in order.
        let _interrupt = signal(SignalKind::interrupt())?;
        let server = match start(program, arguments) {
            Ok(server) => server,
            Err(error) => {
                eprintln!("vmcp-gateway: cannot run {program:?}: {error}");
                let is_absent = error.kind() == io::ErrorKind::NotFound;
                return Ok(ExitCode::from(if is_absent { NOT_FOUND } else { NOT_EXECUTABLE }));
            }
        };
        release_streams()?;
        let mut gateway_is_gone = watch_gateway();
        let mut descendants = Descendants::new(server);
        while descendants.server_exit().is_none() {
            tokio::select! {
                _ = exits.recv() => descendants.reap(),
                _ = stop.recv() => break,
                _ = &mut gateway_is_gone => break,
            }
        }
        end_all(&mut descendants, &mut exits).await;
        Ok(ExitCode::from(descendants.server_exit().unwrap_or(1)))
    })
}

/// Starts the program as the leader of a process group.
fn start(program: &str, arguments: &[String]) -> io::Result<Pid> {
    let server = Command::new(program).args(arguments).process_group(0).spawn()?;
    i32::try_from(server.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("the server has no process id"))
}

/// Leaves the ends of the pipes to the server, so that each end is closed when the server closes it.
fn release_streams() -> io::Result<()> {
    let nothing = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    Ok(())
}

/// Resolves when standard error has no reader. If it is no pipe, that never happens. A thread waits, because it may not be polled as other
/// streams are.
fn watch_gateway() -> oneshot::Receiver<()> {
    let (gone, is_gone) = oneshot::channel();
    std::thread::spawn(move || {
        let stderr = io::stderr();
        // Errors and a missing reader are reported without being asked for.
        let mut watched = [PollFd::new(&stderr, PollFlags::empty())];
        while matches!(poll(&mut watched, None), Err(Errno::INTR)) {}
        gone.send(())
    });
    is_gone
}

/// Ends the server, if it runs, and all of its descendants.
async fn end_all(descendants: &mut Descendants, exits: &mut tokio::signal::unix::Signal) {
    let until = Instant::now() + EXIT_GRACE;
    while descendants.server_exit().is_none() {
        tokio::select! {
            _ = exits.recv() => descendants.reap(),
            () = sleep_until(until) => break,
        }
    }
    descendants.reap();
    descendants.signal(Signal::TERM);
    let until = Instant::now() + TERMINATION_GRACE;
    while descendants.exist() {
        tokio::select! {
            _ = exits.recv() => descendants.reap(),
            () = sleep_until(until) => break,
        }
    }
    while descendants.exist() {
        descendants.signal(Signal::KILL);
        drop(tokio::time::timeout(KILL_INTERVAL, exits.recv()).await);
        descendants.reap();
    }
}
