//! `cargo xtask conformance`.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use vmcp_peers::npm;

use crate::cargo;

/// The official conformance suite through the gateway, with one backend and with two: prints `scored P/N`, and exits by it.
///
/// `cargo xtask conformance 2025-11-25`. Installs the suite first and builds what is needed. It needs neither Kubernetes nor Redis.
#[derive(Args)]
pub(crate) struct Conformance {
    /// The revision of the protocol whose requirements are checked: 2025-11-25
    revision: String,
}

impl Conformance {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        npm::conformance()?;
        let suite = cargo::program("conformance")?;
        // In place of this process, so that signals and the exit code are the suite's own.
        let error = Command::new(suite).arg(&self.revision).exec();
        Err(error).context("cannot run the suite")
    }
}
