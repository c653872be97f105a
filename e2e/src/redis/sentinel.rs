//! A primary, a replica, and three sentinels that watch them.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;
use vmcp_external::process::Process;

use super::{Redis, START_LIMIT, ask};
use crate::{ports, wait};

/// The name under which the sentinels know the primary.
pub const MASTER_NAME: &str = "vmcp";

/// How long a fail-over may take.
const FAIL_OVER_LIMIT: Duration = Duration::from_secs(60);

/// Two servers and three sentinels. They are killed when this value is dropped.
#[derive(Debug)]
pub struct Sentinels {
    /// The sentinels' addresses.
    pub addresses: Vec<SocketAddr>,
    /// The servers; the first one is the primary in the beginning.
    pub servers: Vec<Redis>,
    processes: Vec<(Process, TempDir)>,
}

impl Sentinels {
    /// Starts them, and waits until the sentinels know each other and the replica.
    ///
    /// # Errors
    /// When something does not start.
    pub fn start() -> anyhow::Result<Self> {
        let settings = ["repl-diskless-sync-delay 0"];
        let primary = Redis::start_with(None, &settings)?;
        let port = primary.address.port();
        let follow = format!("replicaof 127.0.0.1 {port}");
        let replica = Redis::start_with(None, &[settings[0], &follow])?;
        let mut sentinels = Self {
            addresses: Vec::new(),
            servers: vec![primary, replica],
            processes: Vec::new(),
        };
        for _ in 0..3 {
            let (address, directory) = (ports::free()?, TempDir::new()?);
            let file = directory.path().join("sentinel.conf");
            let settings = format!(
                "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor {MASTER_NAME} 127.0.0.1 {port} 2\n\
                 sentinel down-after-milliseconds {MASTER_NAME} 1500\nsentinel failover-timeout {MASTER_NAME} 5000\n",
                address.port(),
                directory.path().display()
            );
            std::fs::write(&file, settings)?;
            let mut command = Command::new(vmcp_external::redis::redis_server()?);
            command.arg(&file).arg("--sentinel");
            let process = Process::start("sentinel", &command)?;
            sentinels.processes.push((process, directory));
            sentinels.addresses.push(address);
        }
        for address in &sentinels.addresses {
            wait::until("the sentinels know each other", START_LIMIT, || {
                let known: Vec<redis::Value> = ask(*address, None, &["SENTINEL", "SENTINELS", MASTER_NAME])?;
                let replicas: Vec<redis::Value> =
                    ask(*address, None, &["SENTINEL", "REPLICAS", MASTER_NAME])?;
                anyhow::ensure!(
                    known.len() == 2 && replicas.len() == 1,
                    "{} and {}",
                    known.len(),
                    replicas.len()
                );
                Ok(())
            })?;
        }
        sentinels.wait_for_replica()?;
        Ok(sentinels)
    }

    /// Sends a command to the sentinel at this place and gives its answer.
    ///
    /// # Errors
    /// When it does not answer, or answers with an error.
    pub fn sentinel_command<T: redis::FromRedisValue>(
        &self,
        place: usize,
        words: &[&str],
    ) -> anyhow::Result<T> {
        ask(self.addresses[place], None, words)
    }

    /// The place in [`Self::servers`] of the one that all sentinels name.
    ///
    /// # Errors
    /// When they do not agree.
    pub fn primary(&self) -> anyhow::Result<usize> {
        let mut named = self.addresses.iter().map(|sentinel| {
            let ask: (String, u16) = ask(
                *sentinel,
                None,
                &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME],
            )?;
            anyhow::Ok(ask.1)
        });
        let port = named.next().context("no sentinel")??;
        for other in named {
            anyhow::ensure!(other? == port, "the sentinels do not agree");
        }
        let place = self
            .servers
            .iter()
            .position(|server| server.address.port() == port);
        place.context("the sentinels name a server that is not there")
    }

    /// Waits until the sentinels name another primary than the server at this place, and it takes writes.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn wait_for_another_primary(&self, than: usize) -> anyhow::Result<usize> {
        wait::until("the sentinels name another primary", FAIL_OVER_LIMIT, || {
            let primary = self.primary()?;
            anyhow::ensure!(primary != than, "they name the same one");
            self.servers[primary].command::<()>(&["SET", "is-it-writable", "yes"])?;
            Ok(primary)
        })
    }

    /// Waits until the replica has everything that the primary has.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_for_replica(&self) -> anyhow::Result<()> {
        let primary = &self.servers[self.primary()?];
        wait::until("the replica follows", START_LIMIT, || {
            let info: String = primary.command(&["INFO", "replication"])?;
            let value = |name: &str| {
                info.split(name)
                    .nth(1)
                    .and_then(|rest| rest.split([',', '\r']).next())
                    .map(str::to_owned)
            };
            let (theirs, ours) = (value("offset="), value("master_repl_offset:"));
            anyhow::ensure!(theirs.is_some() && theirs == ours, "{theirs:?} of {ours:?}");
            Ok(())
        })
    }
}
