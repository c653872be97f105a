//! Calls of cargo on this workspace.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

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

/// Runs cargo to its end, its output on our terminal.
pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let name = arguments.join(" ");
    let status = cargo(arguments)
        .status()
        .with_context(|| format!("cannot run cargo {name}"))?;
    if !status.success() {
        bail!("cargo {name}: {status}; what is wrong is printed above");
    }
    Ok(())
}

/// Whether cargo has the subcommand `name`: rustfmt and clippy are components that a toolchain may lack.
pub(crate) fn has(name: &str) -> bool {
    let version = cargo(&[name, "--version"]).output();
    version.is_ok_and(|output| output.status.success())
}
