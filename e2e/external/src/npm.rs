//! Programs from npm.
//!
//! The packages and the checksums of everything that they need are in `npm/*/package-lock.json`. To change them, edit
//! `package.json` beside it and run `npm install --package-lock-only --ignore-scripts` in that folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, bail};

use crate::run::run;
use crate::{cache, debian, path};

/// The oldest Node that runs the packages, by its major version.
const OLDEST_NODE: u32 = 20;

/// What to do about a Node that is missing or too old. It is not installed with apt, because most Debian systems would
/// get one that is too old.
const INSTALL: &str = "install Node.js 20 or newer with npm (https://nodejs.org/en/download; on Debian 13 or newer also \
                       `apt-get install nodejs npm`), put it on the PATH, and run this again";

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
        node: node()?,
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
        bail!(
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

    /// A command that runs our own script `name` of `npm/scripts`, which finds these packages by `require`.
    #[must_use]
    pub fn script(&self, name: &str) -> Command {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("npm/scripts");
        let mut command = Command::new(&self.node);
        command.arg(scripts.join(name)).env("NODE_PATH", &self.modules);
        command
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
        let (node, npm) = (node()?, program("npm")?);
        fs::write(dir.join("package.json"), folder.package)?;
        fs::write(dir.join("package-lock.json"), folder.lock)?;
        run(&mut clean_install(&node, &npm, dir))?;
        Ok(())
    })?;
    Ok(dir.join("node_modules"))
}

/// The command that installs exactly what the lock in `dir` lists, and fails when `package.json` asks for something else.
pub(crate) fn clean_install(node: &Path, npm: &Path, dir: &Path) -> Command {
    let mut command = Command::new(npm);
    // Nothing here needs its install script, and a script is free to download what the lock file does not check.
    command
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(dir);
    // npm is a script that looks for Node in the search path, which may lack the folder where we found it.
    if let Some(programs) = node.parent() {
        path::put_first(&mut command, programs);
    }
    command
}

/// The machine's own Node, which is new enough.
pub(crate) fn node() -> anyhow::Result<PathBuf> {
    let node = program("node")?;
    let version = run(Command::new(&node).arg("--version"))?;
    if major(&version).is_none_or(|major| major < OLDEST_NODE) {
        bail!(
            "{} is {}, which is too old: {INSTALL}",
            node.display(),
            version.trim()
        );
    }
    Ok(node)
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    debian::find(name).with_context(|| format!("{name} is missing: {INSTALL}"))
}

/// The major version in what `node --version` prints.
fn major(version: &str) -> Option<u32> {
    let numbers = version.trim().strip_prefix('v')?;
    numbers.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn node_version_is_compared_as_number() {
        assert_eq!(major("v20.19.2\n"), Some(OLDEST_NODE));
        assert!(major("v9.11.2") < Some(OLDEST_NODE));
        assert_eq!(major("what?"), None);
    }

    #[test]
    fn npm_locks_pin_and_check_every_package() {
        for folder in [SERVERS, CONFORMANCE] {
            let package: Value = serde_json::from_str(folder.package).unwrap();
            for kind in ["dependencies", "optionalDependencies"] {
                for (name, version) in package[kind].as_object().into_iter().flatten() {
                    let version = version.as_str().unwrap();
                    // A package under another name: `npm:NAME@VERSION`.
                    let alias = version
                        .strip_prefix("npm:")
                        .and_then(|alias| alias.rsplit_once('@'));
                    let version = alias.map_or(version, |(_, version)| version);
                    assert!(
                        version.starts_with(|first: char| first.is_ascii_digit())
                            && !version.contains([' ', 'x', '|']),
                        "{}: {name} {version} is not one version",
                        folder.name
                    );
                }
            }
            let lock: Value = serde_json::from_str(folder.lock).unwrap();
            let packages = lock["packages"].as_object().unwrap();
            assert!(packages.len() > 50, "{}", folder.name);
            for (path, locked) in packages.iter().filter(|(path, _)| !path.is_empty()) {
                assert!(
                    locked["version"].is_string(),
                    "{}: {path} has no version",
                    folder.name
                );
                assert!(
                    locked["integrity"].is_string(),
                    "{}: {path} has no checksum",
                    folder.name
                );
                assert!(
                    locked["resolved"].is_null(),
                    "{}: {path} names a registry",
                    folder.name
                );
            }
        }
    }
}
