//! The images that every node loads at the start.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use vmcp_external::{cache, debian};

use crate::hex::short;
use crate::image::{Config, Image};

/// The pause image and the image of CoreDNS, as files for `ctr images import`.
pub(crate) fn all(coredns: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("pause.c");
    let key = short([
        std::fs::read(&source)?.as_slice(),
        coredns.as_os_str().as_encoded_bytes(),
    ]);
    let dir = cache::once(&format!("node-images-{key}"), |dir| {
        let binary = dir.join("pause");
        compile(&source, &binary)?;
        let mut pause = Image::new("localhost/pause:1", Config::running(["/pause"]));
        pause.file(&binary, "/pause")?;
        pause.write(&dir.join("pause.tar"))?;
        let mut dns = Image::new("localhost/coredns:1", Config::running(["/coredns"]));
        dns.file(&coredns.join("coredns"), "/coredns")?;
        dns.write(&dir.join("coredns.tar"))
    })?;
    Ok(["pause.tar", "coredns.tar"]
        .iter()
        .map(|name| dir.join(name))
        .collect())
}

fn compile(source: &Path, binary: &Path) -> anyhow::Result<()> {
    let compiler = debian::program("gcc", "gcc")?;
    let output = Command::new(compiler)
        .args(["-static", "-O2", "-s", "-Wall", "-o"])
        .arg(binary)
        .arg(source)
        .output()
        .context("cannot run gcc")?;
    if !output.status.success() {
        bail!(
            "gcc {}: {}",
            source.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
