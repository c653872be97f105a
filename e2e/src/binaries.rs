//! The programs of this workspace.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, bail};
use vmcp_external::run::run;

/// The path of one of the workspace's programs, as this test was built: same profile, same target directory.
///
/// Cargo does not build the programs of other packages for a test, so the first call in a test process runs cargo. Under `cargo xtask test`
/// everything is built already, and that takes a moment.
///
/// # Errors
/// When it does not build.
pub fn path(name: &str) -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let directory = directory()?;
    let built = BUILT.get_or_init(|| build(&directory).map_err(|error| format!("{error:#}")));
    if let Err(error) = built {
        bail!("{error}");
    }
    let path = directory.join(name);
    if !path.is_file() {
        bail!("{} is not there, although the workspace builds", path.display());
    }
    Ok(path)
}

/// Where cargo puts the programs of the profile with which this process was built.
fn directory() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let directory = this.parent().context("a program stands in a directory")?;
    // Tests stand in `deps`, programs beside it.
    let directory = if directory.ends_with("deps") {
        directory.parent().unwrap_or(directory)
    } else {
        directory
    };
    Ok(directory.to_owned())
}

fn build(directory: &Path) -> anyhow::Result<()> {
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => bail!("{} is no target directory", directory.display()),
    };
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["build", "--workspace", "--bins", "--locked", "--profile", profile])
        .arg("--target-dir")
        .arg(directory.parent().unwrap_or(directory));
    run(&mut command).context("the programs do not build")?;
    Ok(())
}
