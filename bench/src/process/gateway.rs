//! Starts gateways with the default configuration.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tempfile::TempDir;
use vmcp_external::process::Process;

use super::{printed, program};
use crate::cores;

/// How long a gateway may take to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// The session store of a gateway.
#[derive(Clone, Copy, Debug)]
pub enum Storage {
    /// The memory of the gateway.
    Memory,
    /// The Redis server at this address.
    Redis(SocketAddr),
}

/// A running gateway. It ends when the value is dropped.
#[derive(Debug)]
pub struct Gateway {
    /// Address of the MCP endpoint.
    pub mcp: SocketAddr,
    admin: SocketAddr,
    process: Process,
    _directory: Option<TempDir>,
}

/// The log line with the addresses of the listeners.
#[derive(Deserialize)]
struct Listening {
    mcp: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    /// Starts a gateway for `backends` on `core`. The backends are named `b0`, `b1` and so on. `keys` is the directory of session keys that
    /// replicas share.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(
        core: usize,
        storage: Storage,
        backends: &[SocketAddr],
        keys: Option<&TempDir>,
    ) -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        let file = directory.path().join("gateway.yaml");
        fs::write(&file, config(storage, backends, keys)?)?;
        let mut command = Command::new(program("vmcp-gateway")?);
        command.arg("serve").arg("--config").arg(&file);
        Self::listening(core, &command, Some(directory))
    }

    /// Starts a bridge for `server`, a program that speaks on its standard streams, on `core`. The program runs there, too.
    ///
    /// # Errors
    /// If it does not start.
    pub fn bridge(core: usize, server: &Command) -> anyhow::Result<Self> {
        let mut command = Command::new(program("vmcp-gateway")?);
        command.args([
            "bridge",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--",
        ]);
        command.arg(server.get_program()).args(server.get_args());
        Self::listening(core, &command, None)
    }

    fn listening(core: usize, command: &Command, directory: Option<TempDir>) -> anyhow::Result<Self> {
        let mut process = Process::start("gateway", &cores::on(core, command))?;
        let listening = printed(&mut process, |text| {
            text.lines()
                .find_map(|line| serde_json::from_str::<Listening>(line).ok())
        })?;
        Ok(Self {
            mcp: listening.mcp,
            admin: listening.admin,
            process,
            _directory: directory,
        })
    }

    /// The id of the process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the gateway is ready.
    ///
    /// # Errors
    /// If it does not become ready in time.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while crate::load::get(self.admin, "/readyz")
            .await
            .is_none_or(|status| status != 200)
        {
            if self.process.ended()?.is_some() || started.elapsed() > READY_TIMEOUT {
                bail!("{}", self.process.last_words());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// Creates a directory with a session key, for gateways that share sessions.
///
/// # Errors
/// If no key can be generated.
pub fn keys() -> anyhow::Result<TempDir> {
    let directory = TempDir::new()?;
    let output = Command::new(program("vmcp-gateway")?).arg("keygen").output()?;
    if !output.status.success() {
        bail!("vmcp-gateway keygen: {}", String::from_utf8_lossy(&output.stderr));
    }
    fs::write(directory.path().join("current"), &output.stdout).context("cannot write the session key")?;
    Ok(directory)
}

fn config(storage: Storage, backends: &[SocketAddr], keys: Option<&TempDir>) -> anyhow::Result<String> {
    let mut config = "version: v1\nlisteners: {mcp: '127.0.0.1:0', admin: '127.0.0.1:0'}\n".to_owned();
    if let Storage::Redis(address) = storage {
        writeln!(
            config,
            "sessionStorage: {{provider: redis, address: '{address}'}}"
        )?;
    }
    if let Some(keys) = keys {
        writeln!(config, "sessionKeys: {{directory: '{}'}}", keys.path().display())?;
    }
    // The load opens more sessions per second than the default limit.
    config.push_str("hot:\n  limits: {initializesPerSecond: 1000000, sessions: 10000000}\n  backends:\n");
    for (place, address) in backends.iter().enumerate() {
        writeln!(config, "    - {{name: b{place}, url: 'http://{address}/mcp'}}")?;
    }
    Ok(config)
}
