//! Runs cargo on this workspace.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value as Json;
use vmcp_external::step::step;

/// Makes cargo print the paths of what it builds as JSON, and the diagnostics of the compiler as text.
const MESSAGES: &str = "--message-format=json-render-diagnostics";

/// The root directory of the repository.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// A command of the cargo that runs this program, in the root of the repository. It shares the terminal and the process group, so that
/// Ctrl-C ends it, too.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs cargo to its end as a step with the name of the command. Its output goes to the terminal. Spaces separate `arguments`.
pub(crate) fn run(arguments: &str) -> anyhow::Result<()> {
    let words: Vec<&str> = arguments.split(' ').collect();
    step(&format!("cargo {arguments}"), || {
        let status = cargo(&words).status().context("failed to run cargo")?;
        succeeded(status)
    })
}

/// Fails if a command with its output on the terminal has failed.
pub(crate) fn succeeded(status: ExitStatus) -> anyhow::Result<()> {
    if !status.success() {
        bail!("{status}; see the output above");
    }
    Ok(())
}

/// Builds all programs of the workspace, and returns the path of `name`. The demo and the conformance suite start the other programs. They
/// run cargo with the same arguments, which then finds everything built.
pub(crate) fn program(name: &str) -> anyhow::Result<PathBuf> {
    let arguments = "build --workspace --bins --locked";
    // Cargo places it beside this program.
    if std::env::current_exe().is_ok_and(|xtask| !xtask.with_file_name(name).exists()) {
        eprintln!(
            "The first build compiles everything: about five minutes on two cores. Later ones take seconds."
        );
    }
    step(&format!("cargo {arguments}"), || {
        let words: Vec<&str> = arguments.split(' ').collect();
        built(&words, name)
    })
}

/// Builds the example program `name` and returns its path. `--workspace` makes cargo select the same features of the dependencies as for the
/// tests, and so compile them once.
pub(crate) fn example(name: &str) -> anyhow::Result<PathBuf> {
    built(&["build", "--workspace", "--locked", "--example", name], name)
}

/// Runs the cargo build with `arguments`, and returns the path of the program `name`, which must be one of its results.
pub(crate) fn built(arguments: &[&str], name: &str) -> anyhow::Result<PathBuf> {
    let output = cargo(arguments)
        .arg(MESSAGES)
        .stderr(Stdio::inherit())
        .output()
        .context("failed to run cargo")?;
    succeeded(output.status).with_context(|| format!("failed to build {name}"))?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Json>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo did not report the path of {name}"))
}

/// Whether cargo has the subcommand `name`. rustfmt and clippy are optional components of a toolchain.
pub(crate) fn has(name: &str) -> bool {
    let version = cargo(&[name, "--version"]).output();
    version.is_ok_and(|output| output.status.success())
}
