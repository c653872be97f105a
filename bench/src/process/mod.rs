//! The processes of a run: gateways, the baseline, backends. Each ends when its value is dropped.

mod gateway;
mod redis;
mod usage;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use vmcp_external::process::Process;

use crate::cores::{self, Cores};

pub use gateway::{Gateway, Storage, keys};
pub use redis::Redis;
pub use usage::{cpu, cpu_of_tree, resident};

/// How long a program may take to print its addresses.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A bare proxy or backends. These programs print their addresses.
#[derive(Debug)]
pub struct Program {
    /// The addresses of its listeners.
    pub addresses: Vec<SocketAddr>,
    process: Process,
}

impl Program {
    /// Starts the bare proxy to `backend` on the core of the measured process.
    ///
    /// # Errors
    /// If it does not start.
    pub fn baseline(cores: Cores, backend: SocketAddr) -> anyhow::Result<Self> {
        let mut command = Command::new(program("vmcp-bench-baseline")?);
        command.arg("--backend").arg(backend.to_string());
        Self::start("baseline", &cores::on(cores.measured, &command), 1)
    }

    /// Starts `servers` backends with `tools` tools each in one process on the core of the load.
    ///
    /// # Errors
    /// If they do not start.
    pub fn backends(cores: Cores, servers: usize, tools: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(program("vmcp-bench-backend")?);
        command.arg("--servers").arg(servers.to_string());
        command.arg("--tools").arg(tools.to_string());
        Self::start("backend", &cores::on(cores.others, &command), servers)
    }

    /// The command of a backend that speaks on its standard streams.
    ///
    /// # Errors
    /// If the program is not built.
    pub fn on_standard_streams() -> anyhow::Result<Command> {
        let mut command = Command::new(program("vmcp-bench-backend")?);
        command.arg("--stdio");
        Ok(command)
    }

    fn start(name: &str, command: &Command, addresses: usize) -> anyhow::Result<Self> {
        let mut process = Process::start(name, command)?;
        let addresses = printed(&mut process, |text| {
            let parsed: Vec<_> = text.lines().map_while(|line| line.parse().ok()).collect();
            (parsed.len() == addresses && text.ends_with('\n')).then_some(parsed)
        })?;
        Ok(Self { addresses, process })
    }

    /// The id of the process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// Waits until `read` finds its value in the output of `process`.
fn printed<T>(process: &mut Process, read: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = read(&fs::read_to_string(process.log())?) {
            return Ok(found);
        }
        if process.ended()?.is_some() || started.elapsed() > START_TIMEOUT {
            bail!("{}", process.last_words());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The path of a program that is built together with this one.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let path = this
        .parent()
        .context("the path of this program has no directory")?
        .join(name);
    if !path.is_file() {
        bail!(
            "{} is not built; run `cargo xtask bench`, which builds it",
            path.display()
        );
    }
    Ok(path)
}
