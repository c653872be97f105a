//! Redis, from Debian's packages.

use std::path::PathBuf;

use crate::debian;

/// The path of `redis-server`. Nothing is started: every test starts a server of its own.
///
/// # Errors
/// When it is not there and cannot be installed; the message says what to do.
pub fn redis_server() -> anyhow::Result<PathBuf> {
    debian::program("redis-server", "redis-server")
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
