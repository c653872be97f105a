//! Programs from npm.
//!
//! The packages and the checksums of everything that they need are in `npm/*/package-lock.json`. To change them, edit
//! `package.json` beside it and run `npm install --package-lock-only --ignore-scripts` in that folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::Context as _;

use crate::run::run;
use crate::{cache, debian, path};

/// Installed npm packages and the Node that runs them.
#[derive(Clone, Debug)]
pub struct Packages {
    node: PathBuf,
    modules: PathBuf,
}

/// A committed folder with a package and a lock file.
struct Folder {
    name: &'static str,
    package: &'static str,
    lock: &'static str,
}

const SERVERS: Folder = Folder {
    name: "npm-servers",
    package: include_str!("../npm/servers/package.json"),
    lock: include_str!("../npm/servers/package-lock.json"),
};

const CONFORMANCE: Folder = Folder {
    name: "npm-conformance",
    package: include_str!("../npm/conformance/package.json"),
    lock: include_str!("../npm/conformance/package-lock.json"),
};

/// The servers that demos and most tests put behind the gateway, run by the machine's own Node: a few seconds to install.
///
/// # Errors
/// When Node is missing or npm fails; the message says what to do.
pub fn servers() -> anyhow::Result<Packages> {
    let modules = install(&SERVERS)?;
    Ok(Packages {
        node: node_program("node")?,
        modules,
    })
}

/// The conformance suite, the inspector, and more servers and clients, with the newer Node that they need.
///
/// # Errors
/// When npm is missing or fails; the message says what to do.
pub fn conformance() -> anyhow::Result<Packages> {
    let modules = install(&CONFORMANCE)?;
    let node = modules.join(".bin/node");
    if !node.is_file() {
        anyhow::bail!(
            "npm has no package of Node for this machine ({})",
            env::consts::ARCH
        );
    }
    Ok(Packages { node, modules })
}

impl Packages {
    /// The Node that runs these packages.
    #[must_use]
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// The `node_modules` folder, for scripts that import the packages.
    #[must_use]
    pub fn modules(&self) -> &Path {
        &self.modules
    }

    /// The script of the program `name`, to be run by [`Packages::node`].
    #[must_use]
    pub fn bin(&self, name: &str) -> PathBuf {
        self.modules.join(".bin").join(name)
    }

    /// A command that runs the program `name`. Its own children find the same Node.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.node);
        command.arg(self.bin(name));
        if let Some(dir) = self.node.parent() {
            path::put_first(&mut command, dir);
        }
        command
    }
}

fn install(folder: &Folder) -> anyhow::Result<PathBuf> {
    let key = cache::key(folder.name, &[folder.package, folder.lock]);
    let dir = cache::once(&key, |dir| {
        let npm = node_program("npm")?;
        fs::write(dir.join("package.json"), folder.package)?;
        fs::write(dir.join("package-lock.json"), folder.lock)?;
        let mut command = Command::new(npm);
        // Nothing here needs its install script, and a script is free to download what the lock file does not check.
        command
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(dir);
        // npm is a script that looks for Node in the search path, which may lack the folder where we found it.
        if let Some(programs) = node_program("node")?.parent() {
            path::put_first(&mut command, programs);
        }
        run(&mut command)?;
        Ok(())
    })?;
    Ok(dir.join("node_modules"))
}

fn node_program(name: &str) -> anyhow::Result<PathBuf> {
    debian::find(name)
        .with_context(|| format!("{name} is missing; install Node.js 20 or newer and run this again"))
}
