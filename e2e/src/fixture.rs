//! Our own MCP server, `vmcp-fixture`, as a process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use vmcp_peers::process::Process;

use crate::{binaries, ports, raw, wait};

const START_LIMIT: Duration = Duration::from_secs(10);

/// A running fixture. It is killed when this value is dropped.
#[derive(Debug)]
pub struct Fixture {
    /// Its MCP endpoint.
    pub url: String,
    mcp: SocketAddr,
    admin: SocketAddr,
    arguments: Vec<String>,
    process: Process,
}

/// What the fixture has seen.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Stats {
    /// The `initialize` requests, by the name that the client gave itself.
    pub initializes: BTreeMap<String, u64>,
    /// The sessions that are open.
    pub sessions: Vec<String>,
    /// The DELETE requests that ended a session.
    pub deletes: u64,
    /// The calls that were cancelled.
    pub cancelled: u64,
    /// The GET streams that are open.
    pub gets_open: u64,
    /// The requests, by method.
    pub requests: BTreeMap<String, u64>,
}

impl Fixture {
    /// Starts a fixture on free ports with these further arguments.
    ///
    /// # Errors
    /// When it does not answer; the message has its last words.
    pub fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_at(ports::free()?, arguments)
    }

    /// The same, with its MCP endpoint at `mcp`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_at(mcp: SocketAddr, arguments: &[&str]) -> anyhow::Result<Self> {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let admin = ports::free()?;
        let process = launch(mcp, admin, &arguments)?;
        Ok(Self {
            url: format!("http://{mcp}/mcp"),
            mcp,
            admin,
            arguments,
            process,
        })
    }

    /// Kills the fixture and starts it again at the same address: it has forgotten every session.
    ///
    /// # Errors
    /// When it does not answer again.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process = launch(self.mcp, self.admin, &self.arguments)?;
        Ok(())
    }

    /// The same, with other arguments from now on.
    ///
    /// # Errors
    /// When it does not answer again.
    pub fn restart_with(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self.restart()
    }

    /// Kills the fixture.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// The address of its MCP endpoint.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.mcp
    }

    /// The address of its admin port.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// What it has seen.
    ///
    /// # Errors
    /// When it does not say.
    pub fn stats(&self) -> anyhow::Result<Stats> {
        let answer = raw::get(self.admin, "/stats", &[])?;
        serde_json::from_slice(&answer.body).with_context(|| format!("/stats: {}", answer.text()))
    }

    /// How many `initialize` requests came from clients that call themselves `client`.
    ///
    /// # Errors
    /// When the fixture does not say.
    pub fn initializes(&self, client: &str) -> anyhow::Result<u64> {
        Ok(self.stats()?.initializes.get(client).copied().unwrap_or_default())
    }

    /// Posts to its admin port.
    ///
    /// # Errors
    /// When it refuses.
    pub fn admin(&self, method: &str, path: &str, body: &serde_json::Value) -> anyhow::Result<()> {
        self.admin_answer(method, path, body).map(drop)
    }

    /// Posts to its admin port, and gives what it answers; null where that is nothing.
    ///
    /// # Errors
    /// When it refuses.
    pub fn admin_answer(
        &self,
        method: &str,
        path: &str,
        body: &serde_json::Value,
    ) -> anyhow::Result<serde_json::Value> {
        let headers = [("content-type", "application/json")];
        let answer = raw::exchange(self.admin, method, path, &headers, body.to_string().as_bytes())?;
        anyhow::ensure!(
            answer.status < 300,
            "{method} {path}: {} {}",
            answer.status,
            answer.text()
        );
        Ok(serde_json::from_slice(&answer.body).unwrap_or_default())
    }
}

fn launch(mcp: SocketAddr, admin: SocketAddr, arguments: &Vec<String>) -> anyhow::Result<Process> {
    let mut command = Command::new(binaries::path("vmcp-fixture")?);
    command
        .args(["--listen", &mcp.to_string(), "--admin", &admin.to_string()])
        .args(arguments);
    let mut process = Process::start("fixture", &command)?;
    let ready = wait::until("the fixture answers", START_LIMIT, || {
        raw::get(admin, "/stats", &[])
    });
    match ready {
        Ok(_) => Ok(process),
        Err(error) => Err(error.context(process.last_words())),
    }
}
