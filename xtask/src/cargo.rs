//! Calls of cargo on this workspace.

use std::path::Path;
use std::process::{Command, ExitStatus};

use anyhow::{Context as _, bail};
use vmcp_peers::step::step;

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// A call of the cargo that runs us, in the root of the repository. It shares our terminal and process group, so that
/// Ctrl-C ends it too.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs cargo to its end, its output on our terminal, as a step that is named like the command. Spaces separate
/// `arguments`.
pub(crate) fn run(arguments: &str) -> anyhow::Result<()> {
    let words: Vec<&str> = arguments.split(' ').collect();
    step(&format!("cargo {arguments}"), || {
        let status = cargo(&words).status().context("cannot run cargo")?;
        succeeded(status)
    })
}

/// Fails when a command whose output is on our terminal did.
pub(crate) fn succeeded(status: ExitStatus) -> anyhow::Result<()> {
    if !status.success() {
        bail!("{status}; what is wrong is printed above");
    }
    Ok(())
}

/// Whether cargo has the subcommand `name`: rustfmt and clippy are components that a toolchain may lack.
pub(crate) fn has(name: &str) -> bool {
    let version = cargo(&[name, "--version"]).output();
    version.is_ok_and(|output| output.status.success())
}
