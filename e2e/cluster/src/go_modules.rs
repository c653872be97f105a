//! Builds programs from Go modules.
//!
//! Each folder in `go`, except `definitions`, is a module whose `go.mod` and `go.sum` pin one upstream project. One module cannot contain them all,
//! because their dependencies conflict, and `go install` rejects Kubernetes because of its `replace` lines.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use vmcp_external::run::run;
use vmcp_external::{cache, debian};

use crate::hex::short;

#[cfg(test)]
mod newer_release;

/// A module of the folder `go`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum GoModule {
    CoreDns,
    Etcd,
    Helm,
    Kubernetes,
}

impl GoModule {
    /// The folder's name.
    fn name(self) -> &'static str {
        match self {
            Self::CoreDns => "coredns",
            Self::Etcd => "etcd",
            Self::Helm => "helm",
            Self::Kubernetes => "kubernetes",
        }
    }

    /// The upstream module that has the version of the program.
    fn upstream(self) -> &'static str {
        match self {
            Self::CoreDns => "github.com/coredns/coredns",
            Self::Etcd => "go.etcd.io/etcd/server/v3",
            Self::Helm => "helm.sh/helm/v4",
            Self::Kubernetes => "k8s.io/kubernetes",
        }
    }

    /// The packages to build: the module's own main package, or the programs in its `tool` lines.
    fn packages(self) -> &'static str {
        match self {
            Self::CoreDns | Self::Etcd => ".",
            Self::Helm | Self::Kubernetes => "tool",
        }
    }

    /// The linker flags that set the version. Without them, the programs report v0.0.0, which clients that compare versions
    /// reject.
    fn linker_flags(self, version: &str) -> String {
        match self {
            Self::CoreDns | Self::Etcd => "-s -w".to_owned(),
            Self::Helm => format!("-s -w -X helm.sh/helm/v4/internal/version.version={version}"),
            Self::Kubernetes => {
                let mut numbers = version.trim_start_matches('v').split('.');
                let (major, minor) = (numbers.next().unwrap_or("1"), numbers.next().unwrap_or("0"));
                ["gitVersion", "gitMajor", "gitMinor"]
                    .into_iter()
                    .zip([version, major, minor])
                    .fold("-s -w".to_owned(), |flags, (name, value)| {
                        format!("{flags} -X k8s.io/component-base/version.{name}={value}")
                    })
            }
        }
    }

    fn source(self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("go").join(self.name())
    }

    fn version(self) -> anyhow::Result<String> {
        let file = self.source().join("go.mod");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let wanted = format!("{} v", self.upstream());
        text.lines()
            .map(|line| line.trim().trim_start_matches("require "))
            .find_map(|line| line.strip_prefix(&wanted))
            .and_then(|rest| rest.split_whitespace().next())
            .map(|version| format!("v{version}"))
            .with_context(|| format!("{} does not require {}", file.display(), self.upstream()))
    }

    /// The name of the programs' folder in the cache. It depends on the pinned versions.
    fn key(self) -> anyhow::Result<String> {
        let mut parts = Vec::new();
        for name in ["go.mod", "go.sum", "main.go"] {
            let file = self.source().join(name);
            if file.exists() {
                parts.push(fs::read(&file)?);
            }
        }
        Ok(format!("{}-{}-{}", self.name(), self.version()?, short(parts)))
    }

    fn build(self, into: &Path, build_cache: &Path) -> anyhow::Result<()> {
        let flags = self.linker_flags(&self.version()?);
        run(go_build(&self.source(), into, &flags, self.packages())?.env("GOCACHE", build_cache))?;
        Ok(())
    }
}

/// The command that builds `packages` of the module in `source` into the folder `into`. `go.mod` and `go.sum` determine all
/// versions: the build fails if a version or a checksum is missing.
fn go_build(source: &Path, into: &Path, linker_flags: &str, packages: &str) -> anyhow::Result<Command> {
    let mut output = OsString::from(into);
    output.push("/");
    let mut command = Command::new("nice");
    command
        .args(["-n", "10"])
        .arg(go()?)
        // `-v` prints the compiled packages, which shows the progress.
        .args(["build", "-v", "-trimpath", "-mod=readonly"])
        // In a working copy of another user, git fails, and Go would refuse to build.
        .arg("-buildvcs=false")
        .args(["-ldflags", linker_flags, "-o"])
        .arg(output)
        .arg(packages)
        .current_dir(source)
        .env("CGO_ENABLED", "0")
        // The user's flags, or a workspace in a parent folder, could select other versions.
        .env("GOFLAGS", "")
        .env("GOWORK", "off");
    Ok(command)
}

/// The installed Go. It may be in the default folder of its installer instead of on the search path.
pub(crate) fn go() -> anyhow::Result<PathBuf> {
    debian::find("go")
        .or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|go| go.is_file()))
        .context("go is missing: the Kubernetes programs are built from Go modules; install Go 1.26 or newer")
}

/// The folders with the programs of `modules`. Builds them if they are not in the cache.
///
/// Go's build cache grows to 5 GB and is useless after the build. It is therefore a separate folder that is removed after the
/// build. The modules share it because they share the standard library.
pub(crate) fn programs(modules: &[GoModule]) -> anyhow::Result<Vec<PathBuf>> {
    let root = cache::dir()?;
    let keys = modules
        .iter()
        .map(|module| module.key())
        .collect::<anyhow::Result<Vec<_>>>()?;
    let folders: Vec<_> = keys.iter().map(|key| root.join(key)).collect();
    if folders.iter().all(|folder| folder.is_dir()) {
        return Ok(folders);
    }
    // One build at a time, so that a second process reuses what the first one has built.
    let _lock = cache::lock("go-build")?;
    let build_cache = root.join("go-build.partial");
    for (module, key) in modules.iter().zip(&keys) {
        cache::once(key, |into| module.build(into, &build_cache))?;
    }
    if build_cache.exists() {
        fs::remove_dir_all(&build_cache)
            .with_context(|| format!("cannot remove {}", build_cache.display()))?;
    }
    Ok(folders)
}
