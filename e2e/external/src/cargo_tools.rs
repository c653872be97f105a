//! Programs from the Rust registry that check the project.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache;
use crate::run::run;

/// The path of `cargo-deny`, which checks licenses, sources and duplicates of the dependencies. The first installation
/// compiles it, which takes minutes.
///
/// # Errors
/// When cargo cannot install it.
pub fn cargo_deny() -> anyhow::Result<PathBuf> {
    install("cargo-deny", "0.20.2")
}

/// The path of `cargo-machete`, which finds dependencies that no code uses. The first installation compiles it.
///
/// # Errors
/// When cargo cannot install it.
pub fn cargo_machete() -> anyhow::Result<PathBuf> {
    install("cargo-machete", "0.9.2")
}

fn install(name: &str, version: &str) -> anyhow::Result<PathBuf> {
    let dir = cache::once(&format!("{name}-{version}"), |dir| {
        run(&mut install_command(name, version, dir))?;
        std::fs::remove_dir_all(dir.join("target"))?;
        Ok(())
    })?;
    Ok(dir.join("bin").join(name))
}

/// The command that installs `name` into `dir` with the dependencies of the lock that it was published with.
pub(crate) fn install_command(name: &str, version: &str, dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["install", name, "--version", version, "--locked", "--root"])
        .arg(dir)
        // In the target folder of this process it would wait for the build that runs it.
        .env("CARGO_TARGET_DIR", dir.join("target"));
    command
}
