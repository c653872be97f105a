//! Programs from Python's package index, in a virtual environment.
//!
//! `python/requirements.txt` pins every package with its checksums. To change it, edit `requirements.in` beside it and run
//! there `uv pip compile --universal --python-version 3.10 --generate-hashes --no-annotate --no-header
//! --no-emit-index-url --no-emit-find-links requirements.in -o requirements.txt`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::run::run;
use crate::{cache, debian, path};

const REQUIREMENTS: &str = include_str!("../python/requirements.txt");

/// What FastMCP's proxy is to run. It finds `python` in the path that [`Venv::module`] sets.
const TIME: &str = include_str!("../python/time.json");

/// A virtual environment with the packages.
#[derive(Clone, Debug)]
pub struct Venv {
    dir: PathBuf,
}

impl Venv {
    /// The environment's Python.
    #[must_use]
    pub fn python(&self) -> PathBuf {
        self.dir.join("bin/python")
    }

    /// The file that tells FastMCP's proxy to run `mcp_server_time`.
    #[must_use]
    pub fn time_config(&self) -> PathBuf {
        self.dir.join("time.json")
    }

    /// A command that runs `module`. The scripts in the environment's `bin` cannot be used: they name the temporary
    /// folder in which the environment was made.
    #[must_use]
    pub fn module(&self, module: &str) -> Command {
        let mut command = Command::new(self.python());
        command.args(["-m", module]);
        path::put_first(&mut command, &self.dir.join("bin"));
        command
    }
}

/// The environment with `mcp`, `fastmcp`, `mcp_server_git` and `mcp_server_time`.
///
/// # Errors
/// When Python is missing or too old, or pip fails; the message says what to do.
pub fn venv() -> anyhow::Result<Venv> {
    let python = debian::program("python3", "python3")?;
    let version = run(Command::new(&python).args([
        "-c",
        "import sys; sys.exit('Python 3.10 or newer is needed') if sys.version_info < (3, 10) \
         else print(sys.base_prefix, sys.version)",
    ]))?;
    let key = cache::key("python", &[REQUIREMENTS, TIME, &version]);
    let dir = cache::once(&key, |dir| fill(&python, dir))?;
    Ok(Venv { dir })
}

fn fill(python: &Path, dir: &Path) -> anyhow::Result<()> {
    // Debian's Python comes without the module that puts pip into an environment.
    if run(Command::new(python).args(["-c", "import ensurepip, venv"])).is_err() {
        debian::install(&["python3-venv"])?;
    }
    run(Command::new(python).args(["-m", "venv"]).arg(dir))?;
    let requirements = dir.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    fs::write(dir.join("time.json"), TIME)?;
    let pip = || {
        let mut command = Command::new(dir.join("bin/python"));
        command.args(["-m", "pip", "--disable-pip-version-check"]);
        command
    };
    install(pip, &requirements)
}

/// Installs exactly what the file `requirements` lists. It lists everything, so that pip has nothing to choose.
pub(crate) fn install(pip: impl Fn() -> Command, requirements: &Path) -> anyhow::Result<()> {
    run(pip()
        // Without `--no-deps` pip resolves what the packages ask for, and refuses a release that is newer than the lock.
        .args([
            "install",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
            // Its lines are shown one at a time while it runs.
            "--progress-bar=off",
            "-r",
        ])
        .arg(requirements))?;
    run(pip().arg("check"))
        .with_context(|| format!("{} does not list everything", requirements.display()))?;
    Ok(())
}
