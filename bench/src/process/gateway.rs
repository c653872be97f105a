//! A gateway, configured as a user would.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tempfile::TempDir;
use vmcp_peers::process::Process;

use super::{printed, program};
use crate::cores;

/// How long a gateway may take until it has looked at all its backends.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// Where the sessions of a gateway are.
#[derive(Clone, Copy, Debug)]
pub enum Storage {
    /// In its memory.
    Memory,
    /// In the Redis at this address.
    Redis(SocketAddr),
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    /// The MCP endpoint.
    pub mcp: SocketAddr,
    admin: SocketAddr,
    process: Process,
    _directory: TempDir,
}

/// The line of its log in which a gateway says where it listens.
#[derive(Deserialize)]
struct Listening {
    mcp: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    /// Starts a gateway in front of `backends` on `core`; the backend at place 0 is called `b0`, and so on. With `keys`, the directory
    /// of the session keys that replicas share.
    ///
    /// # Errors
    /// When it does not start.
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
        let mut process = Process::start("gateway", &cores::on(core, &command))?;
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

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the gateway has looked at all its backends.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while crate::load::get(self.admin, "/readyz")
            .await
            .is_none_or(|status| status != 200)
        {
            if self.process.ended()?.is_some() || started.elapsed() > READY_LIMIT {
                bail!("{}", self.process.last_words());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// Directory with a session key, for gateways that share sessions.
///
/// # Errors
/// When no key can be made.
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
    // The load asks for more in a second than a server that guards itself gives to one address.
    config.push_str("hot:\n  limits: {initializesPerSecond: 1000000, sessions: 10000000}\n  backends:\n");
    for (place, address) in backends.iter().enumerate() {
        writeln!(config, "    - {{name: b{place}, url: 'http://{address}/mcp'}}")?;
    }
    Ok(config)
}
