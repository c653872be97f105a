//! The cache of installed and built programs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The root of the cache: `$VMCP_CACHE`, or `vmcp` in the user's cache directory.
///
/// # Errors
/// When the environment names no home.
pub fn dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("VMCP_CACHE") {
        return Ok(dir.into());
    }
    if let Some(dir) = std::env::var_os("XDG_CACHE_HOME") {
        return Ok(Path::new(&dir).join("vmcp"));
    }
    let home = std::env::var_os("HOME").context("neither VMCP_CACHE, XDG_CACHE_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cache/vmcp"))
}

/// The folder `key` of the cache. When it is not there, `build` fills a temporary folder, which then takes that name: a
/// folder with the name of its key is always complete, also after a build that was interrupted. Processes that want the
/// same key at the same time wait for the one that builds.
///
/// `key` names the program and its version, for example `cargo-deny-0.20.2`.
///
/// # Errors
/// When `build` fails, or the cache cannot be written.
pub fn once(key: &str, build: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<PathBuf> {
    let root = dir()?;
    let ready = root.join(key);
    if ready.is_dir() {
        return Ok(ready);
    }
    fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    let lock = File::create(root.join(format!("{key}.lock")))?;
    lock.lock()?;
    if ready.is_dir() {
        return Ok(ready);
    }
    let partial = root.join(format!("{key}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    crate::step(&format!("install {key}"), || build(&partial))?;
    fs::rename(&partial, &ready)?;
    Ok(ready)
}
