//! Calls of cargo on this workspace.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value as Json;
use vmcp_peers::step::step;

/// Makes cargo say what it built where; what the compiler says stays readable.
const MESSAGES: &str = "--message-format=json-render-diagnostics";

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

/// Builds the program `name` of the tests, with all programs of the workspace, and returns its path. The demo and the
/// conformance suite start the others, and ask cargo for exactly this build, which then has nothing left to do.
pub(crate) fn program(name: &str) -> anyhow::Result<PathBuf> {
    let arguments = "build --workspace --bins --locked";
    // Cargo puts it beside this program.
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

/// Builds the example program `name` and returns its path. The whole workspace is named, because cargo then chooses the
/// same features of the dependencies as for the tests, and compiles them once.
pub(crate) fn example(name: &str) -> anyhow::Result<PathBuf> {
    built(&["build", "--workspace", "--locked", "--example", name], name)
}

/// Builds as `arguments` say, and returns the path of the program `name`, which is among what they build.
pub(crate) fn built(arguments: &[&str], name: &str) -> anyhow::Result<PathBuf> {
    let output = cargo(arguments)
        .arg(MESSAGES)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    succeeded(output.status).with_context(|| format!("cannot build {name}"))?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Json>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo did not say where it put {name}"))
}

/// Whether cargo has the subcommand `name`: rustfmt and clippy are components that a toolchain may lack.
pub(crate) fn has(name: &str) -> bool {
    let version = cargo(&[name, "--version"]).output();
    version.is_ok_and(|output| output.status.success())
}
