//! `cargo xtask hostile`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use vmcp_peers::step::step;

use crate::cargo;

/// Hostile clients and backends against a gateway with the memory of a pod and one core.
///
/// Builds the gateway in the profile `release` first. It needs root, for the control group that bounds the gateway's memory, and a machine
/// that does nothing else. `cargo xtask hostile --help` lists its options.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Hostile {
    /// Passed to the scenario itself
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Hostile {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let arguments = "build --release --locked --workspace --bins";
        let hostile = step(&format!("cargo {arguments}"), || {
            let arguments: Vec<&str> = arguments.split(' ').collect();
            cargo::built(&arguments, "hostile")
        })?;
        // In place of this process, so that signals and the exit code are the scenario's own.
        let error = Command::new(hostile).args(&self.arguments).exec();
        Err(error).context("cannot run the scenario")
    }
}
