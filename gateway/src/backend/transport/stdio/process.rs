//! One process of a server, which is an upstream session: both end together.

use std::process::Stdio;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use rustix::process::{Pid, Signal, kill_process};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::environment::Environment;
use super::line_reader::LineReader;
use super::process_exit::ProcessExit;
use super::process_output::ProcessOutput;
use crate::backend::transport::routed_stream::{Routed, RoutedStream, lock};
use crate::backend::{Backend, BackendError, Inner, ResponseEvents};
use crate::config::ServerCommand;
use crate::mcp::error_code;
use crate::mcp::jsonrpc::{self, Message};

/// The executable of this process, also after it was replaced on disk.
const OWN_EXECUTABLE: &str = "/proc/self/exe";
/// The most messages that wait until the server reads its input.
const INPUT_BACKLOG: usize = 16;
/// Up to this size, a message and its line break are written at once.
const MAX_COPIED_BYTES: usize = 64 * 1024;
/// The number of lines in a row that are no JSON after which the process counts as broken.
const MAX_FOREIGN_LINES: u32 = 100;
/// How often the drain checks whether the calls are complete.
const DRAIN_CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// Bounds of the interval between checks whether a process is idle.
const MIN_IDLE_CHECK_INTERVAL: Duration = Duration::from_millis(100);
const MAX_IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// How long the end of running calls waits for the exit code, which their errors contain.
const EXIT_CODE_GRACE: Duration = Duration::from_millis(500);
/// How long the supervisor may take to end the server: more than its own limits together.
const SUPERVISOR_GRACE: Duration = Duration::from_secs(10);

/// A running process.
#[derive(Debug)]
pub(super) struct ServerProcess {
    messages: RoutedStream,
    input: mpsc::Sender<Bytes>,
    stop: CancellationToken,
    last_used: Mutex<Instant>,
}

/// What the task of a process needs.
struct Running {
    process: Arc<ServerProcess>,
    /// The supervisor of the server.
    supervisor: Child,
    lines: LineReader<ChildStdout>,
    output: Arc<ProcessOutput>,
    /// `None` for the process in which the gateway lists what the server offers: it stays.
    idle_timeout: Option<Duration>,
    started: Instant,
    /// The number of lines in a row that were no JSON.
    foreign_lines: u32,
}

/// Why the task of a process ends it.
enum End {
    /// The gateway does not need it any more.
    NotNeeded,
    /// The server has closed its output, usually because it has exited.
    Closed,
    /// The server's output cannot be used.
    Fault(String),
}

impl ServerProcess {
    /// Starts the process for the session `id` of `backend`. It keeps `place` until it has ended.
    pub(super) fn start(
        backend: &Backend,
        command: &ServerCommand,
        environment: Environment,
        id: HeaderValue,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Arc<Self>, BackendError> {
        let mut supervisor = spawn(command, environment.variables)?;
        let (stdin, stdout, stderr) = streams(&mut supervisor)?;
        let number = supervisor.id().unwrap_or_default();
        tracing::debug!(backend = %backend.name(), process = number, "server process started");
        let (input, queue) = mpsc::channel(INPUT_BACKLOG);
        let process = Arc::new(Self {
            messages: RoutedStream::new(backend.shares_session()),
            input,
            stop: CancellationToken::new(),
            last_used: Mutex::new(Instant::now()),
        });
        let output = Arc::new(ProcessOutput::new(
            backend.name().clone(),
            number,
            environment.secrets,
        ));
        let tasks = backend.tasks();
        tasks.spawn(write_messages(stdin, queue, process.stop.clone()));
        let reading = Arc::clone(&output);
        let stderr_read = tasks.spawn(async move { reading.read(stderr).await });
        let running = Running {
            process: Arc::clone(&process),
            supervisor,
            lines: LineReader::new(stdout, backend.account().clone()),
            output,
            idle_timeout: place.is_some().then_some(command.idle_timeout),
            started: Instant::now(),
            foreign_lines: 0,
        };
        let (inner, drained) = (Arc::downgrade(&backend.inner), tasks.drained());
        tasks.spawn(async move {
            running.run(&inner, &id, drained, stderr_read).await;
            drop(place);
        });
        Ok(process)
    }

    /// Sends the request `message` with the id `id`, and returns its events.
    pub(super) async fn call(&self, message: Bytes, id: &RawValue) -> Result<ResponseEvents, BackendError> {
        let events = self
            .messages
            .call(id, &message)
            .ok_or(BackendError::SessionLost)?;
        self.send(message).await?;
        Ok(events)
    }

    /// Sends a message. Waits while the server does not read its input.
    pub(super) async fn send(&self, message: Bytes) -> Result<(), BackendError> {
        *lock(&self.last_used) = Instant::now();
        let sent = self.input.send(message).await;
        sent.map_err(|_| BackendError::SessionLost)
    }

    /// Cancels the request `id`. A server that does not read its input gets no cancellation.
    pub(super) fn cancel(&self, id: &RawValue) {
        let message = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{}}}}}"#,
            id.get()
        );
        if self.input.try_send(message.into()).is_err() {
            tracing::debug!("server does not read its input; dropping a cancellation");
        }
    }

    /// Ends the call with this id without a response.
    pub(super) fn end_call(&self, id: &RawValue) {
        self.messages.end_call(id);
    }

    /// The messages that belong to no call; `None` when the process has ended.
    pub(super) fn listen(&self) -> Option<ResponseEvents> {
        self.messages.listen()
    }

    /// Ends the process, and with it the session.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    fn is_idle(&self, limit: Duration) -> bool {
        self.messages.has_no_calls()
            && !self.messages.has_listener()
            && lock(&self.last_used).elapsed() >= limit
    }
}

impl Running {
    /// Reads the output until the process must end, and ends it.
    async fn run(
        mut self,
        backend: &Weak<Inner>,
        id: &HeaderValue,
        drained: impl Future<Output = ()>,
        stderr_read: tokio::task::JoinHandle<()>,
    ) {
        let end = self.read(drained).await;
        // From here on, no message is sent: the writer ends and closes the server's input.
        let mut code = None;
        let fault = match end {
            End::NotNeeded => {
                self.process.messages.end(None);
                None
            }
            End::Closed => {
                let exited = timeout(EXIT_CODE_GRACE, self.supervisor.wait()).await;
                code = exited.ok().and_then(Result::ok).and_then(ProcessExit::code_of);
                Some(None)
            }
            End::Fault(fault) => Some(Some(fault)),
        };
        self.process.stop.cancel();
        if code.is_some() {
            // The supervisor has exited, so nothing writes to standard error any more.
            drop(timeout(EXIT_CODE_GRACE, stderr_read).await);
        }
        let exit = fault.map(|fault| ProcessExit {
            code,
            fault,
            ran_for: self.started.elapsed(),
            last_lines: self.output.last_lines(),
        });
        if let Some(inner) = backend.upgrade() {
            if let Some(exit) = &exit {
                tracing::warn!(backend = %inner.name, reason = %exit, "server process ended");
            }
            if let Some(processes) = inner.transport.processes() {
                processes.remove(id, exit.clone());
            }
        }
        if let Some(exit) = exit {
            self.process.messages.end(Some(exit.to_string()));
        }
        self.end_supervisor().await;
    }

    async fn read(&mut self, drained: impl Future<Output = ()>) -> End {
        tokio::pin!(drained);
        let mut draining = false;
        let mut drain_check = tokio::time::interval(DRAIN_CHECK_INTERVAL);
        let idle_timeout = self.idle_timeout.unwrap_or(Duration::MAX);
        let idle_interval = (idle_timeout / 4).clamp(MIN_IDLE_CHECK_INTERVAL, MAX_IDLE_CHECK_INTERVAL);
        let mut idle_check = tokio::time::interval(idle_interval);
        let stop = self.process.stop.clone();
        loop {
            let line = tokio::select! {
                // First, because the output also ends when the gateway has ended the process.
                biased;
                () = stop.cancelled() => return End::NotNeeded,
                () = &mut drained, if !draining => {
                    draining = true;
                    continue;
                }
                _ = drain_check.tick(), if draining => {
                    if self.process.messages.has_no_calls() {
                        return End::NotNeeded;
                    }
                    continue;
                }
                _ = idle_check.tick() => {
                    if self.process.is_idle(idle_timeout) {
                        return End::NotNeeded;
                    }
                    continue;
                }
                line = self.lines.next() => line,
            };
            let line = match line {
                Ok(Some(line)) => line,
                Ok(None) if stop.is_cancelled() => return End::NotNeeded,
                Ok(None) => return End::Closed,
                Err(error) => return End::Fault(format!("it {error}")),
            };
            tokio::select! {
                () = stop.cancelled() => return End::NotNeeded,
                fault = self.deliver(line) => {
                    if let Some(fault) = fault {
                        return End::Fault(fault);
                    }
                }
            }
        }
    }

    /// Gives the message in `line` to the call or listener to which it belongs. Returns what is wrong with the output, if it cannot be used.
    async fn deliver(&mut self, line: Bytes) -> Option<String> {
        if line.is_empty() {
            return None;
        }
        match self.process.messages.deliver(line.clone()).await {
            Routed::Delivered => {}
            Routed::Ping(id) => self.answer(jsonrpc::result(&id, b"{}")),
            Routed::Unroutable => match Message::from_backend(&line) {
                Ok(Message::Request(request)) => {
                    let message = "The client has no open stream that could take this request";
                    self.answer(jsonrpc::error(Some(request.id), error_code::INTERNAL, message));
                }
                Ok(_) => tracing::debug!("dropping unroutable backend message"),
                Err(_) if serde_json::from_slice::<IgnoredAny>(&line).is_ok() => {
                    tracing::debug!("dropping backend message that is not JSON-RPC");
                }
                Err(_) => {
                    self.output.add("stdout", &line);
                    self.foreign_lines += 1;
                    return (self.foreign_lines >= MAX_FOREIGN_LINES).then(|| {
                        format!("{MAX_FOREIGN_LINES} lines in a row on its standard output were not JSON")
                    });
                }
            },
        }
        self.foreign_lines = 0;
        None
    }

    /// Answers the server itself. A server that does not read its input gets no answer.
    fn answer(&self, message: Bytes) {
        if self.process.input.try_send(message).is_err() {
            tracing::debug!("server does not read its input; dropping an answer");
        }
    }

    /// Lets the supervisor end the server. The input is closed.
    async fn end_supervisor(&mut self) {
        let pid = self.supervisor.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // An error means that it has exited.
            let _exited = kill_process(pid, Signal::TERM);
        }
        if timeout(SUPERVISOR_GRACE, self.supervisor.wait()).await.is_err() {
            drop(self.supervisor.kill().await);
        }
    }
}

/// Starts the supervisor, which starts the server.
fn spawn(
    command: &ServerCommand,
    variables: Vec<(std::ffi::OsString, std::ffi::OsString)>,
) -> Result<Child, BackendError> {
    let mut supervisor = Command::new(OWN_EXECUTABLE);
    supervisor
        .args(["supervise", "--", &command.program])
        .args(&command.arguments)
        .env_clear()
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C in a terminal reaches the gateway alone, which ends the server in order.
        .process_group(0);
    if let Some(directory) = &command.directory {
        supervisor.current_dir(directory);
    }
    supervisor.spawn().map_err(|error| {
        let directory = command.directory.as_ref();
        let place = directory.map_or_else(String::new, |at| format!(" in {}", at.display()));
        BackendError::Unreachable(format!("its process cannot be started{place}: {error}"))
    })
}

fn streams(child: &mut Child) -> Result<(ChildStdin, ChildStdout, ChildStderr), BackendError> {
    let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    match streams {
        (Some(stdin), Some(stdout), Some(stderr)) => Ok((stdin, stdout, stderr)),
        _ => Err(BackendError::Unreachable("its process has no streams".to_owned())),
    }
}

/// Writes messages to the server's input, one a line, until `stop` or an error. Then the input is closed.
async fn write_messages(mut stdin: ChildStdin, mut queue: mpsc::Receiver<Bytes>, stop: CancellationToken) {
    let writing = async {
        let mut line = BytesMut::new();
        while let Some(message) = queue.recv().await {
            let message = one_line(message);
            let written = if message.len() <= MAX_COPIED_BYTES {
                line.clear();
                line.extend_from_slice(&message);
                line.extend_from_slice(b"\n");
                stdin.write_all(&line).await
            } else {
                match stdin.write_all(&message).await {
                    Ok(()) => stdin.write_all(b"\n").await,
                    Err(error) => Err(error),
                }
            };
            if written.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = writing => {}
    }
}

/// Replaces line breaks in a JSON text, where they are white space, by spaces.
fn one_line(message: Bytes) -> Bytes {
    if memchr::memchr2(b'\n', b'\r', &message).is_none() {
        return message;
    }
    let spaced = |&byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte };
    message.iter().map(spaced).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_with_line_breaks_becomes_one_line() {
        let pretty = Bytes::from_static(b"{\r\n  \"a\": \"b\\n\"\n}");
        assert_eq!(one_line(pretty), &b"{    \"a\": \"b\\n\" }"[..]);
    }
}
