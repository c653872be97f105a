//! The programs and charts of the commit before the last one, for tests of upgrades.
//!
//! They are compiled once for each version of their sources, and kept in the cache. The dependencies that this process was compiled with are
//! linked into the folder of the compilation, so it compiles the workspace's own crates only. The folder of this process cannot be shared:
//! cargo names what it compiles after the path within the workspace, and would take crates of one commit for those of the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::cache;
use crate::run::run;

/// The commit.
const COMMIT: &str = "HEAD~1";

/// What the programs and charts are made of.
const SOURCES: [&str; 6] = [
    "Cargo.lock",
    "Cargo.toml",
    "charts",
    "crds",
    "gateway",
    "operator",
];

const PROGRAMS: [&str; 2] = ["vmcp-gateway", "vmcp-operator"];

/// The folder of cargo's profile `dev`.
const PROFILE: &str = "debug";

/// A part of the names of the workspace's own crates that the programs are made of.
const OWN_CRATES: &str = "vmcp";

const CHARTS: &str = "charts";

/// The beginning of their names in the cache.
const NAME: &str = "previous-commit";

/// Age at which those of other commits are removed from the cache.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The installed programs and charts.
#[derive(Clone, Debug)]
pub struct PreviousCommit {
    dir: PathBuf,
}

impl PreviousCommit {
    /// Checks that git knows the commit.
    ///
    /// # Errors
    /// If it does not, as in a shallow clone.
    pub fn find() -> anyhow::Result<()> {
        git(&["rev-parse", "--verify", &format!("{COMMIT}^{{commit}}")])
            .map(drop)
            .context(
                "git does not know the previous commit; `git fetch --deepen=1` gets it for a shallow clone",
            )
    }

    /// Compiles the programs, unless the cache has them.
    ///
    /// # Errors
    /// If git does not know the commit, or it does not compile.
    pub fn install() -> anyhow::Result<Self> {
        Self::find()?;
        let hashes = SOURCES.map(|path| git(&["rev-parse", &format!("{COMMIT}:{path}")]));
        let hashes: Vec<String> = hashes.into_iter().collect::<anyhow::Result<_>>()?;
        let hashes: Vec<&str> = hashes.iter().map(String::as_str).collect();
        let key = cache::key(NAME, &hashes);
        let dir = cache::once(&key, build)?;
        remove_old(&key)?;
        Ok(Self { dir })
    }

    /// The path of `vmcp-gateway` or `vmcp-operator`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The folder with the charts.
    #[must_use]
    pub fn charts(&self) -> PathBuf {
        self.dir.join(CHARTS)
    }
}

fn build(into: &Path) -> anyhow::Result<()> {
    let target = target_dir()?;
    let scratch = target.join(NAME);
    remove(&scratch)?;
    let (source, artifacts) = (scratch.join("source"), scratch.join("target"));
    unpack(&[], &source)?;
    link_dependencies(&target.join(PROFILE), &artifacts.join(PROFILE))?;
    compile(&source, &artifacts)?;
    for program in PROGRAMS {
        let built = artifacts.join(PROFILE).join(program);
        fs::copy(&built, into.join(program)).with_context(|| format!("cannot copy {}", built.display()))?;
    }
    unpack(&[CHARTS], into)?;
    remove(&scratch)
}

/// Links what cargo compiled in the folder `from` into the folder `into`, except for the workspace's own crates.
fn link_dependencies(from: &Path, into: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(into).with_context(|| format!("cannot create {}", into.display()))?;
    for folder in ["deps", "build", ".fingerprint"] {
        run(Command::new("cp")
            .args(["--archive", "--link"])
            .arg(from.join(folder))
            .arg(into))?;
        for entry in fs::read_dir(into.join(folder))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().contains(OWN_CRATES) {
                remove(&entry.path())?;
            }
        }
    }
    Ok(())
}

/// Compiles the programs in the folder `source`, into `artifacts`.
fn compile(source: &Path, artifacts: &Path) -> anyhow::Result<()> {
    let mut cargo = Command::new(env!("CARGO"));
    // The whole workspace, so that cargo selects nearly the same features of the dependencies as for the tests.
    cargo.args(["build", "--locked", "--workspace"]);
    for program in PROGRAMS {
        cargo.args(["--bin", program]);
    }
    // Variables of the cargo that runs this process would change what the scripts of dependencies see, and so compile them again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_set_by_cargo) {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(source).env("CARGO_TARGET_DIR", artifacts);
    run(&mut cargo).map(drop)
}

/// Whether cargo sets this variable for the programs that it runs.
fn is_set_by_cargo(name: &str) -> bool {
    name == "CARGO"
        || ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// Writes these paths of the commit, or all, to the folder `into`.
fn unpack(paths: &[&str], into: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(into).with_context(|| format!("cannot create {}", into.display()))?;
    let archive = into.join("archive.tar");
    let output = format!("--output={}", archive.display());
    git(&[&["archive", "--format=tar", &output, COMMIT, "--"], paths].concat())?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(into))?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
}

/// The target directory of this process.
fn target_dir() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    // Tests are in `deps`, other programs beside it.
    let mut folders = program.ancestors().skip(1);
    let profile = folders.find(|folder| folder.join("deps").is_dir());
    profile
        .and_then(Path::parent)
        .map(Path::to_owned)
        .with_context(|| format!("{} is in no target directory", program.display()))
}

/// Removes what other commits left in the cache.
fn remove_old(key: &str) -> anyhow::Result<()> {
    for entry in fs::read_dir(cache::dir()?)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with(NAME) || name.starts_with(key) {
            continue;
        }
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age > MAX_AGE {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

/// Runs git in this repository, and returns what it printed.
fn git(arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("git");
    command
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    Ok(run(&mut command)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use vmcp_requires::requires;

    use super::*;

    // What is unpacked is the whole workspace of the previous commit.
    #[requires(previous_commit)]
    #[test]
    fn unpacked_commit_has_the_sources_of_that_commit() {
        let dir = tempfile::tempdir().unwrap();
        unpack(&[], dir.path()).unwrap();
        for path in SOURCES {
            assert!(dir.path().join(path).exists(), "{path}");
        }
        let lock = dir.path().join("Cargo.lock");
        assert_eq!(
            git(&["hash-object", &lock.to_string_lossy()]).unwrap(),
            git(&["rev-parse", &format!("{COMMIT}:Cargo.lock")]).unwrap()
        );
    }

    // Cargo would take the crates of this commit for those of the previous one, and write to the files that tests use.
    #[test]
    fn dependencies_are_linked_without_own_crates() {
        let dir = tempfile::tempdir().unwrap();
        let (from, into) = (dir.path().join("from"), dir.path().join("into"));
        let files = [
            "deps/libserde-1.rlib",
            "deps/libvmcp_crds-2.rlib",
            "build/ring-3/output",
            ".fingerprint/vmcp-gateway-4/lib-vmcp_gateway",
            ".fingerprint/serde-1/lib-serde",
        ];
        for file in files {
            fs::create_dir_all(from.join(file).parent().unwrap()).unwrap();
            fs::write(from.join(file), file).unwrap();
        }
        link_dependencies(&from, &into).unwrap();
        for file in files {
            let is_own = file.contains("vmcp");
            assert!(from.join(file).exists());
            assert_eq!(into.join(file).exists(), !is_own, "{file}");
            if !is_own {
                let inode = |path: &Path| fs::metadata(path).unwrap().ino();
                assert_eq!(inode(&from.join(file)), inode(&into.join(file)), "{file}");
            }
        }
    }
}
