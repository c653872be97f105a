//! A Redis server for one run, with its statistics.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use vmcp_external::process::Process;

use crate::cores::{self, Cores};

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running Redis server without persistence. It ends when the value is dropped.
#[derive(Debug)]
pub struct Redis {
    /// The address of its listener.
    pub address: SocketAddr,
    _process: Process,
    _directory: TempDir,
}

/// Number of commands of clients. Commands within scripts, which Redis counts as well, are not included.
#[derive(Clone, Copy, Debug)]
pub struct Commands {
    /// Scripts: all operations on session records.
    pub scripts: u64,
    /// PING commands of the gateways.
    pub pings: u64,
}

impl Redis {
    /// Starts Redis on the core of the load.
    ///
    /// # Errors
    /// If it cannot be installed or does not start.
    pub fn start(cores: Cores) -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let file = directory.path().join("redis.conf");
        let settings = format!(
            "port {}\nbind 127.0.0.1\ndir {}\nsave \"\"\nappendonly no\n",
            address.port(),
            directory.path().display()
        );
        fs::write(&file, settings)?;
        let mut command = Command::new(vmcp_external::redis::redis_server()?);
        command.arg(&file);
        let mut process = Process::start("redis", &cores::on(cores.others, &command))?;
        let started = Instant::now();
        while command_of(address, "PING").is_err() {
            if process.ended()?.is_some() || started.elapsed() > START_TIMEOUT {
                bail!("{}", process.last_words());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self {
            address,
            _process: process,
            _directory: directory,
        })
    }

    /// The number of commands so far.
    ///
    /// # Errors
    /// If Redis does not report it.
    pub fn commands(&self) -> anyhow::Result<Commands> {
        let stats = command_of(self.address, "INFO commandstats")?;
        let calls = |name: &str| {
            let line = stats.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split(',').next()?.parse::<u64>().ok())
                .unwrap_or(0)
        };
        Ok(Commands {
            scripts: calls("cmdstat_evalsha:calls=") + calls("cmdstat_eval:calls="),
            pings: calls("cmdstat_ping:calls="),
        })
    }

    /// The memory that Redis uses, in bytes.
    ///
    /// # Errors
    /// If Redis does not report it.
    pub fn memory(&self) -> anyhow::Result<u64> {
        let memory = command_of(self.address, "INFO memory")?;
        let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:"));
        used.and_then(|used| used.trim().parse().ok())
            .context("INFO memory has no field used_memory")
    }
}

/// Sends `command`, and returns its response as text, which must be a status or a single string.
fn command_of(address: SocketAddr, command: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with('-') {
        bail!("{command}: {}", answer.lines().next().unwrap_or_default());
    }
    Ok(answer)
}
