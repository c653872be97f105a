//! `cargo xtask demo`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use vmcp_peers::{npm, python, redis};

use crate::cargo;

/// One endpoint over two MCP servers that nobody here wrote, on your machine, until you press Ctrl-C.
///
/// Installs the servers first and builds what is needed. It needs neither Kubernetes nor Redis. `demo outages` is another one: three
/// gateways, a real Redis and a backend that counts, killed one after the other while a conversation goes on.
#[derive(Args)]
pub(crate) struct Demo {
    /// Another demo than the plain one
    #[arg(value_enum)]
    story: Option<Story>,
    /// Passed to the demo itself; `-- --help` lists what it knows
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Story {
    /// A conversation goes on while replicas, Redis and the backend's memory are killed
    Outages,
}

impl Demo {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let story = match self.story {
            None => {
                npm::servers()?;
                python::venv()?;
                None
            }
            Some(Story::Outages) => {
                redis::redis_server()?;
                Some("outages")
            }
        };
        let demo = cargo::program("demo")?;
        // In place of this process, so that signals and the exit code are the demo's own.
        let error = Command::new(demo).args(story).args(&self.arguments).exec();
        Err(error).context("cannot run the demo")
    }
}
