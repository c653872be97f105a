//! Helm, for tests of charts without a cluster.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::go_modules::{self, GoModule};

/// The path of `helm`. Builds it if it is not in the cache.
///
/// # Errors
/// If it cannot be built.
pub fn helm() -> anyhow::Result<PathBuf> {
    let folders = go_modules::programs(&[GoModule::Helm])?;
    let folder = folders.into_iter().next().context("helm has no folder")?;
    Ok(folder.join("helm"))
}
