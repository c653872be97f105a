//! MCP servers that others wrote, started for a test or a demo.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::process::Process;
use crate::{go_sdk, npm, ports, probe, python};

/// How long a server may take until it answers: Python imports for seconds on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How often a closed port is tried.
const POLL: Duration = Duration::from_millis(20);

/// How many ports are tried before a server counts as broken.
const PORTS: u32 = 3;

/// A running MCP server. It is killed, with its children, when this value is dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it serves MCP.
    pub url: String,
    /// Its process.
    pub process: Process,
    name: String,
    port: u16,
    command: Command,
    /// Whether it answers on a port.
    answers: fn(u16) -> anyhow::Result<()>,
}

impl Server {
    /// Starts the server again, where it was, after it has ended or was killed. It has forgotten what it did not write down.
    ///
    /// # Errors
    /// When it cannot be started or does not answer; the message has its last words.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = Process::start(&self.name, &self.command)?;
        wait(&mut self.process, self.port, self.answers)
            .map_err(|failure| failure.context(format!("{}; {}", self.name, self.process.last_words())))
    }
}

/// Starts npm's server-everything: every feature of the protocol, legacy revisions only, with sessions.
///
/// # Errors
/// When it cannot be installed or does not answer; the message has its last words.
pub fn everything() -> anyhow::Result<Server> {
    let packages = npm::servers()?;
    start("everything", |port| {
        let mut command = packages.command("mcp-server-everything");
        command.arg("streamableHttp").env("PORT", port.to_string());
        command
    })
}

/// The same, as it speaks HTTP+SSE of 2024-11-05; its URL is that of the stream.
///
/// # Errors
/// As [`everything`].
pub fn everything_over_sse() -> anyhow::Result<Server> {
    let packages = npm::servers()?;
    start_at("everything over sse", "/sse", probe::streams, |port| {
        let mut command = packages.command("mcp-server-everything");
        command.arg("sse").env("PORT", port.to_string());
        command
    })
}

/// Starts Python's mcp-server-time behind FastMCP's proxy: two tools, legacy revisions with sessions and 2026-07-28.
///
/// # Errors
/// When it cannot be installed or does not answer; the message has its last words.
pub fn time() -> anyhow::Result<Server> {
    let venv = python::venv()?;
    start("time", |port| {
        let mut command = venv.module("fastmcp.cli");
        command
            .arg("run")
            .arg(venv.time_config())
            .args(["--transport", "http", "--no-banner", "--port", &port.to_string()])
            // It would ask the package index for a newer version of itself.
            .env("FASTMCP_CHECK_FOR_UPDATES", "off");
        command
    })
}

/// Starts npm's server-filesystem behind npm's mcp-proxy: tools that read and write below `directory`. The proxy speaks all revisions, the
/// legacy ones with sessions.
///
/// # Errors
/// When it cannot be installed or does not answer; the message has its last words.
pub fn filesystem(directory: &Path) -> anyhow::Result<Server> {
    let packages = npm::conformance()?;
    start("filesystem", |port| {
        let mut command = proxy(&packages, port, "mcp-server-filesystem");
        command.arg(directory);
        command
    })
}

/// Starts npm's server-memory behind npm's mcp-proxy: a graph that it keeps in `file`.
///
/// # Errors
/// When it cannot be installed or does not answer; the message has its last words.
pub fn memory(file: &Path) -> anyhow::Result<Server> {
    let packages = npm::conformance()?;
    start("memory", |port| {
        let mut command = proxy(&packages, port, "mcp-server-memory");
        command.env("MEMORY_FILE_PATH", file);
        command
    })
}

/// npm's mcp-proxy in front of the program `name`, which speaks on its standard input and output.
fn proxy(packages: &npm::Packages, port: u16, name: &str) -> Command {
    let mut command = packages.command("mcp-proxy");
    command
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .args(["--server", "stream", "--"])
        .arg(packages.node())
        .arg(packages.bin(name));
    command
}

/// Starts a server on the TypeScript SDK v2 as its documentation makes one: all revisions, and never a session.
///
/// # Errors
/// When the SDK cannot be installed or the server does not answer; the message has its last words.
pub fn sessionless() -> anyhow::Result<Server> {
    let packages = npm::conformance()?;
    start("sessionless", |port| {
        let mut command = packages.script("sessionless.cjs");
        command.env("PORT", port.to_string());
        command
    })
}

/// Starts a server on the official Go SDK with the tool `echo`, the prompt `greet` and the resource `test://motto`: legacy revisions with
/// sessions.
///
/// # Errors
/// When the program cannot be built or does not answer; the message has its last words.
pub fn go() -> anyhow::Result<Server> {
    let program = go_sdk::program()?;
    start("go", |port| {
        let mut command = Command::new(&program);
        command.args(["serve", &format!("127.0.0.1:{port}")]);
        command
    })
}

/// Starts a server on the official SDK of that name, `python`, `typescript-v1`, `typescript-v2` or `go`: sessions, the tool `echo`, the
/// prompt `greet` and the resource `test://motto`.
///
/// # Errors
/// When the SDK cannot be installed, no server has that name, or the server does not answer; the message has its last words.
pub fn sdk(sdk: &str) -> anyhow::Result<Server> {
    match sdk {
        "python" => {
            let python = python::venv()?.python();
            start(sdk, |port| {
                let mut command = Command::new(&python);
                command.args([
                    concat!(env!("CARGO_MANIFEST_DIR"), "/python/serve.py"),
                    &port.to_string(),
                ]);
                command
            })
        }
        "typescript-v1" | "typescript-v2" => {
            let packages = npm::conformance()?;
            start(sdk, |port| {
                let mut command = packages.script("serve.cjs");
                command.arg(sdk.trim_start_matches("typescript-"));
                command.env("PORT", port.to_string());
                command
            })
        }
        "go" => go(),
        _ => bail!("there is no server on the SDK {sdk}"),
    }
}

/// Starts the command that `command` makes for a port, and waits until it answers MCP at `/mcp` there.
///
/// # Errors
/// When the program cannot be started or does not answer; the message has its last words.
pub fn start(name: &str, command: impl Fn(u16) -> Command) -> anyhow::Result<Server> {
    start_at(name, "/mcp", probe::answers, command)
}

fn start_at(
    name: &str,
    path: &str,
    answers: fn(u16) -> anyhow::Result<()>,
    command: impl Fn(u16) -> Command,
) -> anyhow::Result<Server> {
    let mut attempt = 1;
    loop {
        let port = ports::free()?.port();
        let command = command(port);
        let mut process = Process::start(name, &command)?;
        let failure = match wait(&mut process, port, answers) {
            Ok(()) => {
                let url = format!("http://127.0.0.1:{port}{path}");
                return Ok(Server {
                    url,
                    process,
                    name: name.to_owned(),
                    port,
                    command,
                    answers,
                });
            }
            Err(failure) => failure.context(format!("{name} does not serve MCP; {}", process.last_words())),
        };
        // Between our look at the port and the server's bind, another program may have taken it.
        let taken = process
            .last_words()
            .to_lowercase()
            .contains("address already in use");
        if !taken || attempt == PORTS {
            return Err(failure);
        }
        attempt += 1;
    }
}

fn wait(process: &mut Process, port: u16, answers: fn(u16) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let answered = answers(port);
        // Looked at after the probe: who answered must be this process, and not another that holds its port.
        if let Some(status) = process.ended()? {
            bail!("it ended at its start: {status}");
        }
        match answered {
            Ok(()) => return Ok(()),
            Err(error) if started.elapsed() > START_LIMIT => {
                return Err(error.context(format!("no answer within {} s", START_LIMIT.as_secs())));
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}
