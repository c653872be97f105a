//! Simulates a new machine: a temporary folder with a fresh clone, and empty home and cache folders.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};
use vmcp_external::{UNAVAILABLE, run::run};

use crate::cargo::root;

/// Script that waits for the end of its standard input and then removes the folder `$0`. This process holds the other end, so the folder is
/// removed even if this process is killed. It retries because running programs may still write to the folder, and Go makes its modules
/// read-only.
const REMOVER: &str = r#"trap '' INT TERM HUP; read -r _; tries=60
while [ $tries -gt 0 ]; do chmod -R u+w "$0"; rm -rf "$0" && exit 0; tries=$((tries - 1)); sleep 1; done; exit 1"#;

/// Environment variables that cargo sets for this process or that refer to other folders. A new user's shell does not have them.
const REMOVED: [&str; 8] = [
    "CARGO",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_BUILD_BUILD_DIR",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_TARGET_DIR",
    UNAVAILABLE,
];

/// The environment variables of home and cache folders, and their values within the temporary folder.
const FOLDERS: [(&str, &str); 8] = [
    ("CARGO_HOME", "cargo"),
    ("GOCACHE", "go/build"),
    ("GOMODCACHE", "go/modules"),
    ("GOPATH", "go"),
    ("PIP_CACHE_DIR", "pip"),
    ("VMCP_CACHE", "vmcp"),
    ("XDG_CACHE_HOME", "cache"),
    ("npm_config_cache", "npm"),
];

/// The temporary folder. It is removed when this value is dropped, and even if this process is killed.
pub(super) struct Machine {
    dir: PathBuf,
    remover: Child,
}

impl Machine {
    /// Creates the folder in `parent`.
    pub(super) fn new(parent: &Path) -> anyhow::Result<Self> {
        let dir = parent.join(format!("vmcp-fresh-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let remover = Command::new("sh")
            .args(["-c", REMOVER])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C must not end it.
            .process_group(0)
            .spawn()
            .context("failed to run sh")?;
        Ok(Self { dir, remover })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Clones the last commit of this repository.
    pub(super) fn clone_repository(&self) -> anyhow::Result<()> {
        run(Command::new("git")
            .args(["clone", "--quiet"])
            .arg(root())
            .arg(self.dir.join("repository")))?;
        // Keeps the registry mirror of this machine, which is not part of the test.
        let home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
        let settings = home.map(|home| home.join("config.toml"));
        if let Some(settings) = settings.filter(|settings| settings.is_file()) {
            fs::create_dir_all(self.dir.join("cargo"))?;
            fs::copy(settings, self.dir.join("cargo/config.toml"))?;
        }
        Ok(())
    }

    /// A cargo command in the clone. Spaces separate `arguments`.
    pub(super) fn cargo(&self, arguments: &str) -> Command {
        let mut command = Command::new("cargo");
        command
            .args(arguments.split_whitespace())
            .current_dir(self.dir.join("repository"));
        for (name, _) in env::vars_os().filter(|(name, _)| is_removed(name)) {
            command.env_remove(name);
        }
        for (name, folder) in FOLDERS {
            command.env(name, self.dir.join(folder));
        }
        command
    }

    /// Removes the folder.
    pub(super) fn remove(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        drop(self.remover.stdin.take());
        self.remover.wait()?;
        ensure!(!self.dir.exists(), "cannot remove {}", self.dir.display());
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

fn is_removed(name: &OsStr) -> bool {
    REMOVED.iter().any(|removed| name == *removed)
        || name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_with_read_only_folders_is_removed() {
        let parent = env::temp_dir().join(format!("vmcp-fresh-test-{}", std::process::id()));
        fs::create_dir(&parent).unwrap();
        let machine = Machine::new(&parent).unwrap();
        let dir = machine.dir().to_owned();
        fs::create_dir_all(dir.join("go/modules/a")).unwrap();
        run(Command::new("chmod").args(["-R", "a-w"]).arg(dir.join("go"))).unwrap();
        // As if this process were killed: only the pipe is closed.
        let mut machine = std::mem::ManuallyDrop::new(machine);
        drop(machine.remover.stdin.take());
        machine.remover.wait().unwrap();
        let is_left = dir.exists();
        fs::remove_dir_all(parent).unwrap();
        assert!(!is_left);
    }

    #[test]
    fn commands_see_only_empty_caches() {
        let machine = Machine::new(&env::temp_dir()).unwrap();
        let command = machine.cargo("xtask demo outages");
        let caches: Vec<_> = command
            .get_envs()
            .filter(|(name, _)| *name != UNAVAILABLE)
            .collect();
        for (name, folder) in FOLDERS {
            let folder = machine.dir().join(folder);
            assert!(
                caches.contains(&(OsStr::new(name), Some(folder.as_os_str()))),
                "{name}"
            );
            assert!(!folder.exists(), "{name}");
        }
        // Cargo sets it for this test.
        assert!(caches.contains(&(OsStr::new("CARGO_MANIFEST_DIR"), None)));
        assert_eq!(
            command.get_args().collect::<Vec<_>>(),
            ["xtask", "demo", "outages"]
        );
    }
}
