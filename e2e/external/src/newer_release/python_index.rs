//! pip: the lock decides.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::debian;
use crate::python::install;
use crate::requires;
use crate::run::run;

/// Writes the packages `vmcp-app` 1.0, which needs an extra of `vmcp-lib` 1 or newer, and `vmcp-lib` 1.0 and 2.0 into a folder, and prints
/// their lines of a lock.
const WHEELS: &str = r#"
import hashlib, sys, zipfile
def wheel(name, version, requires):
    stem = f"{name}-{version}"
    path = f"{sys.argv[1]}/{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        info = f"{stem}.dist-info"
        file.writestr(f"{name}.py", f"VERSION = '{version}'\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    print(f"{name}=={version} --hash=sha256:{hashlib.sha256(open(path, 'rb').read()).hexdigest()}")
wheel("vmcp_app", "1.0", "Requires-Dist: vmcp_lib[more]>=1")
wheel("vmcp_lib", "1.0", "Provides-Extra: more")
wheel("vmcp_lib", "2.0", "Provides-Extra: more")
"#;

/// An empty environment, and an index with three packages that only its pip knows.
struct Index {
    dir: tempfile::TempDir,
    locked: Vec<String>,
}

impl Index {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let python = debian::find("python3").unwrap();
        run(Command::new(&python)
            .args(["-m", "venv"])
            .arg(dir.path().join("venv")))
        .unwrap();
        let lines = run(Command::new(&python).args(["-c", WHEELS]).arg(dir.path())).unwrap();
        let locked = lines.lines().map(str::to_owned).collect();
        Self { dir, locked }
    }

    fn python(&self) -> PathBuf {
        self.dir.path().join("venv/bin/python")
    }

    /// Installs from a lock that has the first `lines` of what the index has.
    fn install(&self, lines: usize) -> anyhow::Result<()> {
        let requirements = self.dir.path().join("requirements.txt");
        fs::write(&requirements, self.locked[..lines].join("\n")).unwrap();
        let pip = || {
            let mut command = Command::new(self.python());
            command
                .args(["-m", "pip", "--disable-pip-version-check"])
                .env("PIP_NO_INDEX", "1")
                .env("PIP_FIND_LINKS", self.dir.path());
            command
        };
        install(pip, &requirements)
    }
}

/// A release that is newer than the lock changes nothing, and a lock that lacks a package is refused.
#[requires(python)]
#[test]
fn python_lock_decides_every_version() {
    let index = Index::new();
    let error = format!("{:#}", index.install(1).unwrap_err());
    assert!(
        error.contains("does not list everything") && error.contains("requires vmcp-lib"),
        "{error}"
    );
    // The lock has the older of the two releases that would do.
    index.install(2).unwrap();
    let version = run(Command::new(index.python()).args(["-c", "import vmcp_lib; print(vmcp_lib.VERSION)"]));
    assert_eq!(version.unwrap().trim(), "1.0");
}
