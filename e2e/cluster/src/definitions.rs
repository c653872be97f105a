//! CustomResourceDefinitions of other projects, from their pinned Go modules.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use vmcp_external::cache;
use vmcp_external::run::run;

use crate::go_modules::go;
use crate::hex::short;

/// The module, the file in it, and the name of the copy.
const DEFINITIONS: [(&str, &str, &str); 2] = [
    (
        "sigs.k8s.io/gateway-api",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
        "httproutes.yaml",
    ),
    (
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
        "servicemonitors.yaml",
    ),
];

/// A folder with the definitions of `HTTPRoute` (`httproutes.yaml`, Gateway API) and `ServiceMonitor` (`servicemonitors.yaml`, Prometheus
/// operator). Downloads them if they are not in the cache. `go.mod` and `go.sum` in `go/definitions` determine version and checksum.
///
/// # Errors
/// When they cannot be downloaded, or a checksum differs.
pub fn definitions() -> anyhow::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("go/definitions");
    let pins = [fs::read(source.join("go.mod"))?, fs::read(source.join("go.sum"))?];
    let files = DEFINITIONS.map(|(.., file, _)| file.as_bytes().to_vec());
    let key = short(pins.iter().chain(&files));
    cache::once(&format!("definitions-{key}"), |into| download(&pins, into))
}

fn download(pins: &[Vec<u8>; 2], into: &Path) -> anyhow::Result<()> {
    // In a copy, because Go appends a checksum that is missing in `go.sum`.
    let module = tempfile::tempdir()?;
    let files = ["go.mod", "go.sum"].map(|name| module.path().join(name));
    for (file, text) in files.iter().zip(pins) {
        fs::write(file, text)?;
    }
    let run_go = |arguments: &[&str]| {
        let mut command = std::process::Command::new(go()?);
        command
            .args(arguments)
            .current_dir(module.path())
            .env("GOFLAGS", "")
            .env("GOWORK", "off");
        run(&mut command)
    };
    for (name, file, copy) in DEFINITIONS {
        run_go(&["mod", "download", name])?;
        let folder = run_go(&["list", "-m", "-f", "{{.Dir}}", name])?;
        let found = Path::new(folder.trim()).join(file);
        fs::copy(&found, into.join(copy)).with_context(|| format!("cannot copy {}", found.display()))?;
    }
    for (file, pinned) in files.iter().zip(pins) {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        ensure!(
            fs::read(file)? == *pinned,
            "go/definitions/{name} is incomplete: run `go mod download` in that folder and commit it"
        );
    }
    Ok(())
}
