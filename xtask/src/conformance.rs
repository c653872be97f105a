//! `cargo xtask conformance`.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use vmcp_external::npm;

use crate::cargo;

/// Run the official conformance suite through the gateway, with one backend and with two.
///
/// Prints `scored P/N`, and fails if a scenario fails. Example: `cargo xtask conformance 2025-11-25`. First installs the suite and builds
/// the gateway. It needs neither Kubernetes nor Redis.
#[derive(Args)]
pub(crate) struct Conformance {
    /// Revision of the protocol to check, for example 2025-11-25
    revision: String,
}

impl Conformance {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        npm::conformance()?;
        let suite = cargo::program("conformance")?;
        // `exec` replaces this process, so that the suite gets the signals and sets the exit code.
        let error = Command::new(suite).arg(&self.revision).exec();
        Err(error).context("failed to run the suite")
    }
}
