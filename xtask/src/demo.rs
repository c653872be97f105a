//! `cargo xtask demo`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::Context as _;
use clap::Args;
use vmcp_peers::{npm, python, redis};

use crate::cargo::cargo;

/// Start gateways in front of real servers, and watch sessions outlive them.
///
/// Installs the servers first, builds what is needed, and runs until it is done or you press Ctrl-C.
#[derive(Args)]
pub(crate) struct Demo {
    /// Passed to the demo itself; `-- --help` lists what it knows
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

impl Demo {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        redis::redis_server()?;
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
