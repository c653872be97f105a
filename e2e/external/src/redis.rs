//! Redis, from Debian's packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use crate::debian;
use crate::run::run;

/// The oldest Redis that the gateway supports, as docs/redis.md says.
const OLDEST: (u32, u32) = (7, 0);

/// The path of `redis-server`. Nothing is started: every test starts a server of its own.
///
/// # Errors
/// When it is too old, or is not there and cannot be installed; the message says what to do.
pub fn redis_server() -> anyhow::Result<PathBuf> {
    let server = debian::program("redis-server", "redis-server")?;
    check(&server)?;
    Ok(server)
}

/// The path of `redis-cli`, for demos and for looking at a test's server by hand.
///
/// # Errors
/// When it is not there and cannot be installed; the message says what to do.
pub fn redis_cli() -> anyhow::Result<PathBuf> {
    debian::program("redis-cli", "redis-tools")
}

/// The path of `valkey-server`, where it is installed. It is not in every Debian, so that nothing is missing without it.
#[must_use]
pub fn valkey_server() -> Option<PathBuf> {
    debian::find("valkey-server")
}

/// Fails when `server` is too old: which version there is was decided by the machine or its Debian, and not here.
fn check(server: &Path) -> anyhow::Result<()> {
    check_version(server, &run(Command::new(server).arg("--version"))?)
}

/// `printed` is what `server` prints when it is asked for its version.
fn check_version(server: &Path, printed: &str) -> anyhow::Result<()> {
    let (oldest_major, oldest_minor) = OLDEST;
    match version(printed) {
        Some(version) if version >= OLDEST => Ok(()),
        Some((major, minor)) => bail!(
            "{} is {major}.{minor}, which is too old: put Redis {oldest_major}.{oldest_minor} or newer on the PATH, and run this again",
            server.display()
        ),
        None => bail!(
            "{} does not say its version: {}",
            server.display(),
            printed.trim()
        ),
    }
}

/// The major and minor version in what `redis-server --version` prints.
fn version(printed: &str) -> Option<(u32, u32)> {
    let version = printed
        .split_whitespace()
        .find_map(|word| word.strip_prefix("v="))?;
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_version_is_compared_as_numbers() {
        let printed = |version: &str| {
            format!("Redis server v={version} sha=00000000:0 malloc=jemalloc-5.3.0 bits=64\n")
        };
        assert_eq!(version(&printed("6.2.14")), Some((6, 2)));
        assert!(version(&printed("10.1.0")) > Some(OLDEST));
        assert_eq!(version("what?"), None);
    }

    #[test]
    fn too_old_redis_is_rejected() {
        let check = |printed| check_version(Path::new("/usr/bin/redis-server"), printed);
        let error = check("Redis server v=6.0.16 bits=64").unwrap_err().to_string();
        assert!(
            error.contains("is 6.0, which is too old: put Redis 7.0"),
            "{error}"
        );
        check("Redis server v=7.0.15 bits=64").unwrap();
        let error = check("Usage: redis-server").unwrap_err().to_string();
        assert!(error.contains("does not say its version: Usage"), "{error}");
    }
}
