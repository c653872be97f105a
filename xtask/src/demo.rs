//! `cargo xtask demo`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::Context as _;
use clap::Args;
use vmcp_peers::{npm, python};

use crate::cargo::cargo;

/// One endpoint over two MCP servers that nobody here wrote, on your machine, until you press Ctrl-C.
///
/// Installs the servers first and builds what is needed. It needs neither Kubernetes nor Redis.
#[derive(Args)]
pub(crate) struct Demo {
    /// Passed to the demo itself; `-- --help` lists what it knows
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

impl Demo {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        npm::servers()?;
        python::venv()?;
        eprintln!("==> build and start the demo");
        // In place of this process, so that signals and the exit code are the demo's own.
        let run = [
            "run", "--quiet", "--locked", "-p", "vmcp-e2e", "--bin", "demo", "--",
        ];
        let error = cargo(&run).args(&self.arguments).exec();
        Err(error).context("cannot run cargo")
    }
}
