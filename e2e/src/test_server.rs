//! The MCP server for tests, `vmcp-test-server`, as a process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use vmcp_external::process::Process;

use crate::{binaries, http_client, ports, wait};

const START_LIMIT: Duration = Duration::from_secs(10);

/// A running test server. It is killed when this value is dropped.
#[derive(Debug)]
pub struct TestServer {
    /// Its MCP endpoint.
    pub url: String,
    mcp: SocketAddr,
    admin: SocketAddr,
    arguments: Vec<String>,
    process: Process,
}

/// The statistics of the test server.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Stats {
    /// The `initialize` requests, by the client's name.
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

impl TestServer {
    /// Starts a test server on free ports with these further arguments.
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

    /// Kills the test server and starts it again at the same address, without its sessions.
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

    /// Kills the test server.
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

    /// Its statistics.
    ///
    /// # Errors
    /// When it does not say.
    pub fn stats(&self) -> anyhow::Result<Stats> {
        let answer = http_client::get(self.admin, "/stats", &[])?;
        serde_json::from_slice(&answer.body).with_context(|| format!("/stats: {}", answer.text()))
    }

    /// The number of `initialize` requests from clients with the name `client`.
    ///
    /// # Errors
    /// When the test server does not say.
    pub fn initializes(&self, client: &str) -> anyhow::Result<u64> {
        Ok(self.stats()?.initializes.get(client).copied().unwrap_or_default())
    }

    /// The number of `tools/call` requests that it received.
    ///
    /// # Errors
    /// If its admin port does not answer.
    pub fn calls(&self) -> anyhow::Result<u64> {
        Ok(self
            .stats()?
            .requests
            .get("tools/call")
            .copied()
            .unwrap_or_default())
    }

    /// Its newest session of a client that is not a gateway, as `GET /sessions` describes it.
    ///
    /// # Errors
    /// When there is no such session, or the admin port does not answer.
    pub fn client_session(&self) -> anyhow::Result<serde_json::Value> {
        let sessions = self.admin_answer("GET", "/sessions", &serde_json::Value::Null)?;
        let sessions = sessions.as_array().cloned().unwrap_or_default();
        let mut sessions = sessions.into_iter().rev();
        let session = sessions.find(|session| session["client"]["name"] == http_client::CLIENT_NAME);
        session.context("no client has a session at the test server")
    }

    /// Sends `text` as a log message of the level `error` to every session.
    ///
    /// # Errors
    /// If its admin port does not answer.
    pub fn log(&self, text: &str) -> anyhow::Result<()> {
        let path = format!("/log?level=error&text={text}");
        self.admin("POST", &path, &serde_json::Value::Null)
    }

    /// Applies `rules` to the requests that follow, instead of the rules before; see the README of the test server.
    ///
    /// # Errors
    /// If the rules are not valid.
    pub fn set_faults(&self, rules: &serde_json::Value) -> anyhow::Result<()> {
        self.admin("POST", "/faults", rules)
    }

    /// Removes all fault rules.
    ///
    /// # Errors
    /// If its admin port does not answer.
    pub fn clear_faults(&self) -> anyhow::Result<()> {
        self.admin("DELETE", "/faults", &serde_json::json!({}))
    }

    /// Sends a request to its admin port.
    ///
    /// # Errors
    /// When it refuses.
    pub fn admin(&self, method: &str, path: &str, body: &serde_json::Value) -> anyhow::Result<()> {
        self.admin_answer(method, path, body).map(drop)
    }

    /// Sends a request to its admin port, and returns the JSON of the response, or null.
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
        let answer = http_client::exchange(self.admin, method, path, &headers, body.to_string().as_bytes())?;
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
    let mut command = Command::new(binaries::path("vmcp-test-server")?);
    command
        .args(["--listen", &mcp.to_string(), "--admin", &admin.to_string()])
        .args(arguments);
    let mut process = Process::start("test-server", &command)?;
    let ready = wait::until("the test server answers", START_LIMIT, || {
        http_client::get(admin, "/stats", &[])
    });
    match ready {
        Ok(_) => Ok(process),
        Err(error) => Err(error.context(process.last_words())),
    }
}
