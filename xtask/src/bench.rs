//! `cargo xtask bench`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use vmcp_external::step::step;

use crate::cargo;

/// Measure the cost of the gateway, compared with a bare hyper proxy in the same run.
///
/// First builds everything in the profile `image`, as for a release. It needs Linux, two cores, and a machine without other load.
/// `cargo xtask bench --help` lists the measurements.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Bench {
    /// Arguments of the bench program
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
        // `exec` replaces this process, so that the bench gets the signals and sets the exit code.
        let error = Command::new(bench).args(&self.arguments).exec();
        Err(error).context("failed to run the bench")
    }
}
