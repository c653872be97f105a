//! Clients on SDKs for Go.
//!
//! `go/go.mod` and `go/go.sum` pin every module with its checksum. To change a version, edit `go.mod` and run `go mod tidy` in that folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::run::run;
use crate::{cache, debian};

const SOURCES: [&str; 5] = [
    include_str!("../go/go.mod"),
    include_str!("../go/go.sum"),
    include_str!("../go/main.go"),
    include_str!("../go/play.go"),
    include_str!("../go/serve.go"),
];

/// The program of `go`, built once per version of its sources.
///
/// # Errors
/// When Go is missing or fails; the message says what to do.
pub fn program() -> anyhow::Result<PathBuf> {
    let dir = cache::once(&cache::key("go-sdk", &SOURCES), build)?;
    Ok(dir.join("sdk"))
}

fn build(into: &Path) -> anyhow::Result<()> {
    // The build cache is of no use once the program is there.
    let build_cache = into.join("build");
    let mut command = Command::new(go()?);
    command
        .args([
            "build",
            "-trimpath",
            "-mod=readonly",
            "-buildvcs=false",
            "-ldflags",
            "-s -w",
            "-o",
        ])
        .arg(into.join("sdk"))
        .arg(".")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("go"))
        .env("CGO_ENABLED", "0")
        .env("GOCACHE", &build_cache)
        // The user's own flags, or a workspace above this folder, may choose other versions.
        .env("GOFLAGS", "")
        .env("GOWORK", "off");
    run(&mut command)?;
    fs::remove_dir_all(&build_cache).with_context(|| format!("cannot remove {}", build_cache.display()))
}

/// The machine's own Go, which may stand where its installer puts it and not on the search path.
fn go() -> anyhow::Result<PathBuf> {
    debian::find("go")
        .or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|go| go.is_file()))
        .context("go is missing: clients on SDKs for Go are built from modules; install Go 1.25 or newer")
}
