//! Debian's packages.
//!
//! They are the one kind of program without a lock: Debian removes a version from its archive as soon as it has a fix for it, so
//! that an exact version would be gone within weeks. A release of Debian gets fixes and nothing else; where the version of a
//! program matters, the function that finds it checks it, and a machine's own program is checked the same way.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::cache;
use crate::run::run;

/// The path of `program`, from the search path or the folders for system programs, which a user's search path may lack.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// The path of `program`; when the machine lacks it, installs Debian's `package` first, if we are root and apt is there.
///
/// # Errors
/// When the program is not there and cannot be installed; the message says what to do.
pub fn program(program: &str, package: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = find(program) {
        return Ok(path);
    }
    install(&[package])?;
    find(program).with_context(|| format!("Debian's package {package} did not bring {program}"))
}

/// Installs Debian's packages.
///
/// # Errors
/// When we are not root, there is no apt, or apt fails; the message says what to do.
pub fn install(packages: &[&str]) -> anyhow::Result<()> {
    let names = packages.join(" ");
    if !is_root() || find("apt-get").is_none() {
        bail!(
            "{names} is missing, and only root on Debian can install it here; install it and run this again"
        );
    }
    crate::step(&format!("apt-get install {names}"), || {
        // Two test programs may want a package at the same time, and apt does not wait for another apt.
        let _lock = cache::lock("apt")?;
        apt(&["update", "-qq"])?;
        let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
        arguments.extend(packages);
        apt(&arguments)
    })
}

/// Whether this process runs as root.
#[must_use]
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    // A package that brings a server must not start it: tests start their own, on ports of their own. Debian's packages
    // ask invoke-rc.d, which looks at RUNLEVEL, or systemctl, which starts nothing while SYSTEMD_OFFLINE is set.
    run(Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .env("SYSTEMD_OFFLINE", "1"))?;
    Ok(())
}
