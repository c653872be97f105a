//! The cache of installed and built programs.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

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
    let _lock = lock(key)?;
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

/// Waits until no other process holds the lock `name`, and holds it until the file is dropped.
///
/// # Errors
/// When the cache cannot be written.
pub fn lock(name: &str) -> anyhow::Result<File> {
    let root = dir()?;
    fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    let path = root.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let locked = match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            eprintln!("==> wait for another process that installs {name}");
            file.lock()
        }
        Err(TryLockError::Error(error)) => Err(error),
    };
    locked.with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// A key that changes with what it is made of: `name` and twelve digits of a hash of `contents`.
#[must_use]
pub fn key(name: &str, contents: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in contents {
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digits: String = hash.finalize()[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{name}-{digits}")
}

#[cfg(test)]
mod tests {
    use super::key;

    #[test]
    fn cache_key_is_stable_and_depends_on_every_part() {
        let one = key("npm", &["lock", "package"]);
        assert_eq!(one, key("npm", &["lock", "package"]));
        assert_eq!(one.len(), "npm-".len() + 12);
        assert_ne!(one, key("npm", &["lockpackage", ""]));
        assert_ne!(one, key("npm", &["lock", "package2"]));
    }
}
