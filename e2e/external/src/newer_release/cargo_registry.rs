//! cargo: the lock that a program was published with decides.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::cargo_tools::install_command;
use crate::run::run;

/// A cargo home whose registry is a folder.
struct Registry(TempDir);

impl Registry {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("home")).unwrap();
        fs::create_dir(dir.path().join("index")).unwrap();
        let config = format!(
            "[source.crates-io]\nreplace-with = \"local\"\n[source.local]\nlocal-registry = {:?}\n",
            dir.path()
        );
        fs::write(dir.path().join("home/config.toml"), config).unwrap();
        Self(dir)
    }

    /// Makes `command` use this registry only.
    fn point<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("CARGO_HOME", self.0.path().join("home"))
            .env("CARGO_NET_OFFLINE", "true")
            .current_dir(self.0.path())
    }

    /// Writes the source of a package into a folder; `main` is its program, or its library when `is_program` is false.
    fn source(&self, name: &str, version: &str, manifest: &str, file: &str, text: &str) -> PathBuf {
        let dir = self.0.path().join(format!("{name}-{version}"));
        fs::create_dir_all(dir.join("src")).unwrap();
        let package =
            format!("[package]\nname = {name:?}\nversion = {version:?}\nedition = \"2021\"\n{manifest}");
        fs::write(dir.join("Cargo.toml"), package).unwrap();
        fs::write(dir.join("src").join(file), text).unwrap();
        dir
    }

    /// Adds the source of a package to the registry.
    fn publish(&self, name: &str, version: &str, dependencies: &Value) {
        let (stem, file) = (format!("{name}-{version}"), format!("{name}-{version}.crate"));
        let mut tar = Command::new("tar");
        run(tar.args(["czf", &file, &stem]).current_dir(self.0.path())).unwrap();
        let hash = Sha256::digest(fs::read(self.0.path().join(file)).unwrap());
        let checksum: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let entry = json!({
            "name": name, "vers": version, "deps": dependencies, "cksum": checksum, "features": {}, "yanked": false,
        });
        let index = self.0.path().join("index").join(&name[..2]).join(&name[2..4]);
        fs::create_dir_all(&index).unwrap();
        let mut index = fs::File::options()
            .create(true)
            .append(true)
            .open(index.join(name))
            .unwrap();
        writeln!(index, "{entry}").unwrap();
    }

    fn publish_library(&self, version: &str) {
        let text = "pub const VERSION: &str = env!(\"CARGO_PKG_VERSION\");\n";
        self.source("vmcp-lib", version, "", "lib.rs", text);
        self.publish("vmcp-lib", version, &json!([]));
    }
}

/// A release that is newer than the lock changes nothing.
#[test]
fn published_cargo_lock_decides_every_version() {
    let registry = Registry::new();
    registry.publish_library("1.0.0");
    let manifest = "[dependencies]\nvmcp-lib = \"1\"\n[workspace]\n";
    let text = "fn main() { println!(\"{}\", vmcp_lib::VERSION) }\n";
    let source = registry.source("vmcp-app", "1.0.0", manifest, "main.rs", text);
    let mut lock = Command::new(env!("CARGO"));
    run(registry.point(lock.arg("generate-lockfile")).current_dir(source)).unwrap();
    let dependency = json!({
        "name": "vmcp-lib", "req": "^1", "features": [], "optional": false, "default_features": true, "target": null,
        "kind": "normal",
    });
    registry.publish("vmcp-app", "1.0.0", &json!([dependency]));
    registry.publish_library("1.1.0");

    let dir = registry.0.path().join("installed");
    run(registry.point(&mut install_command("vmcp-app", "1.0.0", &dir))).unwrap();
    let printed = run(&mut Command::new(dir.join("bin/vmcp-app"))).unwrap();
    assert_eq!(printed.trim(), "1.0.0");
}
