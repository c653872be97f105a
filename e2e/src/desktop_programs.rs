//! The programs `npx` and `uvx` of a laptop, which run only the locked packages and use no network.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::TempDir;
use vmcp_external::{npm, python};

/// A home and a project in which `npx -y PACKAGE` and `uvx PACKAGE` work.
#[derive(Debug)]
pub struct Desktop {
    /// The user's home.
    pub home: PathBuf,
    /// The folder in which the user works.
    pub project: PathBuf,
    /// The search path for programs.
    pub path: String,
    _directory: TempDir,
}

impl Desktop {
    /// Makes the folders.
    ///
    /// # Errors
    /// When a program cannot be installed, or a folder cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        // Servers that resolve links compare the path with what they may use.
        let root = directory.path().canonicalize()?;
        let (home, project, programs) = (root.join("home"), root.join("project"), root.join("programs"));
        for folder in [&home, &project, &programs] {
            fs::create_dir(folder)?;
        }
        let packages = npm::conformance()?;
        // The system's own npx finds the packages in the project, and asks no registry.
        let installed = packages.modules().with_file_name("package.json");
        symlink(packages.modules(), project.join("node_modules"))?;
        fs::copy(installed, project.join("package.json"))?;
        fs::write(home.join(".npmrc"), "offline=true\nupdate-notifier=false\n")?;
        write_uvx(&programs)?;
        let node = packages.node().parent().context("Node is in a folder")?;
        let system = std::env::var_os("PATH").unwrap_or_default();
        let folders = [programs, node.to_owned()]
            .into_iter()
            .chain(std::env::split_paths(&system));
        let path = std::env::join_paths(folders)?;
        Ok(Self {
            home,
            project,
            path: path.into_string().ok().context("PATH is not UTF-8")?,
            _directory: directory,
        })
    }
}

/// Writes a `uvx` that runs the module of a package in the locked environment: uv itself would ask the package index.
fn write_uvx(folder: &Path) -> anyhow::Result<()> {
    let python = python::venv()?.python();
    let script = format!(
        "#!/bin/sh\nmodule=$(echo \"$1\" | tr - _)\nshift\nexec '{}' -m \"$module\" \"$@\"\n",
        python.display()
    );
    let file = folder.join("uvx");
    fs::write(&file, script)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
