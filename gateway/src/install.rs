//! `vmcp-gateway install`: copies this program, so that an init container can give it to the container of a server.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;

/// The executable of this process.
const OWN_EXECUTABLE: &str = "/proc/self/exe";

/// Copies this program to `target`, which everyone may execute. A file that is there is replaced at once and never half-written.
///
/// # Errors
/// When the copy cannot be written.
pub fn install(target: &Path) -> anyhow::Result<()> {
    let name = target.file_name().context("the target has no file name")?;
    let mut partial = name.to_owned();
    partial.push(".partial");
    let partial = target.with_file_name(partial);
    fs::copy(OWN_EXECUTABLE, &partial).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o755))
        .and_then(|()| fs::rename(&partial, target))
        .with_context(|| format!("cannot write {}", target.display()))
}
