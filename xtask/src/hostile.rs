//! `cargo xtask hostile`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use vmcp_external::step::step;

use crate::cargo;

/// Attack a gateway that has one core and the memory of a pod with hostile clients and backends.
///
/// First builds the gateway in the profile `release`. It needs root, for the control group that limits the gateway's memory, and a machine
/// without other load. `cargo xtask hostile --help` lists its options.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Hostile {
    /// Arguments of the scenario
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
        // `exec` replaces this process, so that the scenario gets the signals and sets the exit code.
        let error = Command::new(hostile).args(&self.arguments).exec();
        Err(error).context("failed to run the scenario")
    }
}
