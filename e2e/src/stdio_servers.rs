//! Third-party MCP servers that speak on their standard streams, each with a habit that a gateway must live with.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use serde_json::{Value, json};
use vmcp_crds::config::{BackendConfig, VariableSource};
use vmcp_external::run::run;
use vmcp_external::{client, npm, python};

/// The SDK of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sdk {
    /// The official SDK for Python.
    Python,
    /// The official SDK for TypeScript, version 1.
    TypeScript,
}

impl Sdk {
    /// The scripted client on this SDK; see [`crate::third_party::scripted_client::play`].
    ///
    /// # Errors
    /// When it cannot be installed.
    pub fn client(self) -> anyhow::Result<Command> {
        match self {
            Self::Python => client::python_legacy(),
            Self::TypeScript => client::typescript_v1(),
        }
    }
}

/// A server, how it is started, and what it answers.
#[derive(Clone, Debug)]
pub struct StdioServer {
    /// The name of its backend.
    pub name: &'static str,
    /// What it does that a gateway must live with.
    pub habit: &'static str,
    /// The SDK of the client that asks it.
    pub sdk: Sdk,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its environment variables, besides those that each server gets.
    pub env: BTreeMap<String, String>,
    /// The directory in which it starts.
    pub directory: PathBuf,
    /// Calls of its tools.
    pub calls: Vec<StdioCall>,
}

/// A call of a tool.
#[derive(Clone, Debug)]
pub struct StdioCall {
    /// The server's own name of the tool.
    pub tool: &'static str,
    /// The arguments.
    pub arguments: Value,
    /// What the result contains.
    pub expected: String,
}

impl StdioCall {
    fn new(tool: &'static str, arguments: Value, expected: impl Into<String>) -> Self {
        Self {
            tool,
            arguments,
            expected: expected.into(),
        }
    }
}

impl StdioServer {
    /// The backend that runs this server.
    #[must_use]
    pub fn backend(&self) -> BackendConfig {
        let variable = |(name, value): (&String, &String)| {
            let source = VariableSource {
                value: Some(value.clone()),
                ..VariableSource::default()
            };
            (name.clone(), source)
        };
        BackendConfig {
            name: self.name.to_owned(),
            command: self.command.clone(),
            env: self.env.iter().map(variable).collect(),
            working_directory: Some(self.directory.clone()),
            ..BackendConfig::default()
        }
    }

    /// The server for a scripted client that runs it.
    #[must_use]
    pub fn script(&self) -> Value {
        json!({
            "command": self.command.first(),
            "args": self.command.get(1..),
            "env": self.env,
            "cwd": self.directory,
        })
    }
}

/// The servers. They read and write below `directory`, which [`reset`] has filled.
///
/// # Errors
/// When a server cannot be installed.
pub fn all(directory: &Path) -> anyhow::Result<Vec<StdioServer>> {
    Ok(vec![
        everything(directory)?,
        filesystem(directory)?,
        memory(directory)?,
        thinking(directory)?,
        runner(directory)?,
        time(directory)?,
        git(directory)?,
        fastmcp(directory)?,
    ])
}

/// Gives the servers the same files again.
///
/// # Errors
/// When a file cannot be written, or Git fails.
pub fn reset(directory: &Path) -> anyhow::Result<()> {
    for folder in ["files", "repository"] {
        let folder = directory.join(folder);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir(&folder)?;
    }
    fs::write(
        directory.join("files/large.txt"),
        "0123456789abcdef".repeat(65_536),
    )?;
    fs::write(directory.join("memory.jsonl"), "")?;
    let repository = directory.join("repository");
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(&repository);
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), "Ada")
                .env(format!("GIT_{role}_EMAIL"), "ada@example.com")
                .env(format!("GIT_{role}_DATE"), "2026-01-01T00:00:00Z");
        }
        run(&mut command)
    };
    git(&["init", "--quiet"])?;
    git(&["commit", "--quiet", "--allow-empty", "--message", "first"])?;
    Ok(())
}

fn everything(directory: &Path) -> anyhow::Result<StdioServer> {
    let command = npm::servers()?.command("mcp-server-everything");
    let calls = vec![
        StdioCall::new(
            "echo",
            json!({"message": "héllo \u{1F600}\nsecond line"}),
            "héllo",
        ),
        StdioCall::new(
            "trigger-long-running-operation",
            json!({"duration": 0.2, "steps": 3}),
            "Steps: 3",
        ),
        StdioCall::new("trigger-elicitation-request", json!({}), "Ada"),
        StdioCall::new(
            "trigger-sampling-request",
            json!({"prompt": "Say something", "maxTokens": 10}),
            "a sample",
        ),
        StdioCall::new("get-tiny-image", json!({}), "image/png"),
        StdioCall::new("get-sum", json!({"a": "one"}), "Invalid"),
    ];
    let habit =
        "progress, elicitation and sampling in calls; more tools after the client's capabilities are known";
    StdioServer::new("everything", habit, Sdk::TypeScript, &command, directory, calls)
}

fn filesystem(directory: &Path) -> anyhow::Result<StdioServer> {
    let files = directory.join("files");
    let mut command = npm::conformance()?.command("mcp-server-filesystem");
    command.arg(&files);
    let calls = vec![
        StdioCall::new(
            "read_text_file",
            json!({"path": files.join("large.txt")}),
            "0123456789abcdef".repeat(65_536),
        ),
        StdioCall::new("read_text_file", json!({"path": "/etc/hostname"}), "denied"),
        StdioCall::new("list_allowed_directories", json!({}), files.display().to_string()),
    ];
    let habit = "asks for the roots of the client as soon as it is initialized; results of 2 MiB in one line";
    StdioServer::new("filesystem", habit, Sdk::TypeScript, &command, directory, calls)
}

/// Run by `npx`, which is the parent of a shell, which is the parent of the server.
fn memory(directory: &Path) -> anyhow::Result<StdioServer> {
    let packages = npm::conformance()?;
    let mut command = packages.command("mcp-server-memory");
    command.env("MEMORY_FILE_PATH", directory.join("memory.jsonl"));
    let entities = json!([{"name": "Ada", "entityType": "person", "observations": ["counts"]}]);
    let calls = vec![
        StdioCall::new("create_entities", json!({"entities": entities}), "counts"),
        StdioCall::new("read_graph", json!({}), "\"entities\""),
    ];
    let habit = "is a grandchild of the process that is started";
    let mut server = StdioServer::new("memory", habit, Sdk::TypeScript, &command, directory, calls)?;
    // In the folder of a package `npx` runs the programs that are installed there.
    server.directory = packages.modules().with_file_name("");
    server.command = vec!["npx".to_owned(), "mcp-server-memory".to_owned()];
    Ok(server)
}

/// Run by `npm run`, which prints a banner on standard output.
fn thinking(directory: &Path) -> anyhow::Result<StdioServer> {
    let packages = npm::conformance()?;
    let program = packages.bin("mcp-server-sequential-thinking");
    let script = format!("{} {}", packages.node().display(), program.display());
    let package = json!({"name": "thinking", "scripts": {"mcp": script}});
    fs::write(directory.join("package.json"), package.to_string())?;
    let command = packages.command("mcp-server-sequential-thinking");
    let thought = |number: u32, is_last: bool| {
        let arguments = json!({
            "thought": "hm", "thoughtNumber": number, "totalThoughts": 2, "nextThoughtNeeded": !is_last,
        });
        let expected = format!("\\\"thoughtHistoryLength\\\": {number}");
        StdioCall::new("sequentialthinking", arguments, expected)
    };
    let calls = vec![thought(1, false), thought(2, true)];
    let habit = "a banner on standard output before the first message; drawings on standard error; state in its memory";
    let mut server = StdioServer::new("thinking", habit, Sdk::TypeScript, &command, directory, calls)?;
    server.command = ["npm", "run", "mcp"].map(str::to_owned).into();
    Ok(server)
}

fn runner(directory: &Path) -> anyhow::Result<StdioServer> {
    let command = npm::conformance()?.command("mcp-server-code-runner");
    let run = |code: &str, expected: &str| {
        let arguments = json!({"code": code, "languageId": "javascript"});
        StdioCall::new("run-code", arguments, expected)
    };
    let calls = vec![
        run("console.log(6 * 7)", "42"),
        run("console.log('x'.repeat(800000))", "xxxxxxxx"),
        run("process.exit(3)", "Error"),
    ];
    let habit = "starts a process in each call";
    StdioServer::new("runner", habit, Sdk::TypeScript, &command, directory, calls)
}

fn time(directory: &Path) -> anyhow::Result<StdioServer> {
    let mut command = python::venv()?.module("mcp_server_time");
    command.args(["--local-timezone", "UTC"]);
    let habit = "starts in a second or more, and is not in JavaScript";
    StdioServer::new("time", habit, Sdk::Python, &command, directory, time_calls())
}

fn git(directory: &Path) -> anyhow::Result<StdioServer> {
    let repository = directory.join("repository");
    let mut command = python::venv()?.module("mcp_server_git");
    command.arg("--repository").arg(&repository);
    let calls = vec![
        StdioCall::new("git_log", json!({"repo_path": repository}), "Ada"),
        StdioCall::new("git_status", json!({"repo_path": "/nowhere"}), "outside"),
    ];
    let habit = "starts a program in each call, and reports errors as results";
    StdioServer::new("git", habit, Sdk::Python, &command, directory, calls)
}

/// FastMCP's proxy, which runs `mcp_server_time` itself.
fn fastmcp(directory: &Path) -> anyhow::Result<StdioServer> {
    let venv = python::venv()?;
    let mut command = venv.module("fastmcp.cli");
    command
        .arg("run")
        .arg(venv.time_config())
        // It would ask the package index for a newer version of itself.
        .env("FASTMCP_CHECK_FOR_UPDATES", "off");
    let habit = "starts in seconds, prints a banner on standard error, and runs another server as its child";
    StdioServer::new("fastmcp", habit, Sdk::Python, &command, directory, time_calls())
}

fn time_calls() -> Vec<StdioCall> {
    let arguments = json!({"source_timezone": "UTC", "time": "16:30", "target_timezone": "Asia/Tokyo"});
    let unknown = json!({"timezone": "Nowhere"});
    vec![
        StdioCall::new("convert_time", arguments, "+9.0h"),
        StdioCall::new("get_current_time", unknown, "Nowhere"),
    ]
}

impl StdioServer {
    fn new(
        name: &'static str,
        habit: &'static str,
        sdk: Sdk,
        command: &Command,
        directory: &Path,
        calls: Vec<StdioCall>,
    ) -> anyhow::Result<Self> {
        let text = |text: &OsStr| text.to_str().map(str::to_owned).context("a path is not UTF-8");
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let variables = command.get_envs();
        let variables = variables.filter_map(|(name, value)| Some((name, value?)));
        Ok(Self {
            name,
            habit,
            sdk,
            command: words.map(text).collect::<anyhow::Result<_>>()?,
            env: variables
                .map(|(name, value)| Ok((text(name)?, text(value)?)))
                .collect::<anyhow::Result<_>>()?,
            directory: directory.to_owned(),
            calls,
        })
    }
}
