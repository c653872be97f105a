//! `cargo xtask demo`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use vmcp_external::{npm, python, redis};

use crate::cargo;

/// Serve two third-party MCP servers as one endpoint on your machine, until you press Ctrl-C.
///
/// First installs the servers and builds the gateway. It needs neither Kubernetes nor Redis. `demo outages` shows three gateways, a real
/// Redis and a stateful backend, which are killed one after the other while a conversation continues.
#[derive(Args)]
pub(crate) struct Demo {
    /// Run this demo instead of the default one
    #[arg(value_enum)]
    name: Option<DemoName>,
    /// Arguments of the demo program; `-- --help` lists them
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

#[derive(Clone, Copy, ValueEnum)]
enum DemoName {
    /// A conversation that survives the loss of replicas, Redis and the backend's memory
    Outages,
}

impl Demo {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let name = match self.name {
            None => {
                npm::servers()?;
                python::venv()?;
                None
            }
            Some(DemoName::Outages) => {
                redis::redis_server()?;
                Some("outages")
            }
        };
        let demo = cargo::program("demo")?;
        // `exec` replaces this process, so that the demo gets the signals and sets the exit code.
        let error = Command::new(demo).args(name).args(&self.arguments).exec();
        Err(error).context("failed to run the demo")
    }
}
