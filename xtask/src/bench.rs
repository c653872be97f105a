//! `cargo xtask bench`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use vmcp_peers::step::step;

use crate::cargo;

/// Measure what the gateway costs, beside a bare hyper proxy in the same run.
///
/// Builds everything as it is shipped first, in the profile `image`. It wants a machine that does nothing else: two cores, and Linux.
/// `cargo xtask bench --help` lists what it measures.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Bench {
    /// What to measure, and how: passed to the bench itself
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Bench {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let arguments = "build --profile image --locked -p vmcp-gateway -p vmcp-bench";
        let bench = step(&format!("cargo {arguments}"), || {
            let arguments: Vec<&str> = arguments.split(' ').collect();
            cargo::built(&arguments, "vmcp-bench")
        })?;
        // In place of this process, so that signals and the exit code are the bench's own.
        let error = Command::new(bench).args(&self.arguments).exec();
        Err(error).context("cannot run the bench")
    }
}
