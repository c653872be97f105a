//! Tests that a newer release on the module proxy does not change the build, and that an incomplete `go.mod` fails.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use vmcp_external::requires;
use vmcp_external::run::run;

use super::{GoModule, go, go_build};

/// A module proxy in a folder, and a module that uses it.
struct Proxy(tempfile::TempDir);

impl Proxy {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("app")).unwrap();
        let main = "package main\nimport \"vmcp.test/lib\"\nfunc main() { println(lib.Version) }\n";
        fs::write(dir.path().join("app/main.go"), main).unwrap();
        Self(dir)
    }

    fn app(&self) -> PathBuf {
        self.0.path().join("app")
    }

    fn publish(&self, version: &str) {
        let dir = self.0.path().join("proxy/vmcp.test/lib/@v");
        fs::create_dir_all(&dir).unwrap();
        let list = fs::read_to_string(dir.join("list")).unwrap_or_default();
        fs::write(dir.join("list"), format!("{list}{version}\n")).unwrap();
        let module = "module vmcp.test/lib\n";
        let library = format!("package lib\nconst Version = {version:?}\n");
        let root = format!("vmcp.test/lib@{version}");
        let archive = zip(&[
            (&format!("{root}/go.mod"), module),
            (&format!("{root}/lib.go"), &library),
        ]);
        fs::write(
            dir.join(format!("{version}.info")),
            format!("{{\"Version\":{version:?}}}"),
        )
        .unwrap();
        fs::write(dir.join(format!("{version}.mod")), module).unwrap();
        fs::write(dir.join(format!("{version}.zip")), archive).unwrap();
    }

    /// Writes the app's `go.mod` with the lines `required`.
    fn require(&self, required: &str) {
        let text = format!("module vmcp.test/app\n\ngo 1.24\n\n{required}\n");
        fs::write(self.app().join("go.mod"), text).unwrap();
    }

    /// Makes `command` use this proxy and a separate module cache.
    fn point<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env(
                "GOPROXY",
                format!("file://{}", self.0.path().join("proxy").display()),
            )
            .env("GOSUMDB", "off")
            .env("GOMODCACHE", self.0.path().join("modules"))
    }

    /// Builds the app as the real programs are built, and returns what it prints.
    fn build(&self) -> anyhow::Result<String> {
        let built = self.0.path().join("built");
        run(self.point(&mut go_build(&self.app(), &built, "-s -w", ".")?))?;
        let printed = Command::new(built.join("app")).output()?.stderr;
        Ok(String::from_utf8(printed)?.trim().to_owned())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Go makes its module cache read-only, so Go has to remove it.
        if let Ok(go) = go() {
            drop(self.point(Command::new(go).args(["clean", "-modcache"])).output());
        }
    }
}

/// A newer release than in `go.mod` changes nothing, and a missing line in `go.mod` or `go.sum` fails the build.
#[requires(helm)]
#[test]
fn go_mod_decides_every_version() {
    let proxy = Proxy::new();
    proxy.publish("v1.0.0");
    proxy.require("require vmcp.test/lib v1.0.0");
    let mut tidy = Command::new(go().unwrap());
    tidy.args(["mod", "tidy"])
        .current_dir(proxy.app())
        .env("GOFLAGS", "");
    run(proxy.point(&mut tidy)).unwrap();
    proxy.publish("v1.1.0");
    assert_eq!(proxy.build().unwrap(), "v1.0.0");

    let checksums = proxy.app().join("go.sum");
    let complete = fs::read_to_string(&checksums).unwrap();
    fs::write(&checksums, "").unwrap();
    let error = proxy.build().unwrap_err().to_string();
    assert!(error.contains("missing go.sum entry"), "{error}");

    fs::write(&checksums, complete).unwrap();
    proxy.require("");
    let error = proxy.build().unwrap_err().to_string();
    assert!(
        error.contains("import lookup disabled by -mod=readonly"),
        "{error}"
    );
}

#[test]
fn every_required_go_module_has_a_checksum() {
    for module in [
        GoModule::CoreDns,
        GoModule::Etcd,
        GoModule::Helm,
        GoModule::Kubernetes,
    ] {
        let read = |name: &str| fs::read_to_string(module.source().join(name)).unwrap();
        let (pins, checksums) = (read("go.mod"), read("go.sum"));
        let mut replaced = Vec::new();
        let mut required = Vec::new();
        for line in pins
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
        {
            let words: Vec<&str> = line.split_whitespace().collect();
            match *words {
                [from, "=>", to, version] => {
                    replaced.push(from);
                    required.push((to, version));
                }
                ["require", name, version] | [name, version] if is_version(version) => {
                    required.push((name, version));
                }
                _ => {}
            }
        }
        assert!(required.len() > 20, "{}", module.name());
        for (name, version) in required {
            let is_listed = checksums.contains(&format!("{name} {version}/go.mod h1:"));
            assert!(
                is_listed || replaced.contains(&name),
                "{}: {name} {version} is not in go.sum",
                module.name()
            );
        }
    }
}

fn is_version(word: &str) -> bool {
    let mut characters = word.chars();
    characters.next() == Some('v') && characters.next().is_some_and(|digit| digit.is_ascii_digit())
}

/// An archive of files that are not compressed.
fn zip(files: &[(&str, &str)]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, text) in files {
        let offset = u32::try_from(archive.len()).unwrap();
        let (name_length, length) = (
            u16::try_from(name.len()).unwrap(),
            u32::try_from(text.len()).unwrap(),
        );
        // Version 2.0, no flags, not compressed, no time; the checksum, both lengths, the name's length, nothing extra.
        let mut header = [20, 0, 0, 0, 0, 0, 0, 0, 33, 0].to_vec();
        for number in [crc32(text.as_bytes()), length, length] {
            header.extend(number.to_le_bytes());
        }
        header.extend(name_length.to_le_bytes());
        header.extend([0, 0]);
        archive.extend(*b"PK\x03\x04");
        archive.extend(&header);
        archive.extend(name.bytes());
        archive.extend(text.bytes());
        directory.extend(*b"PK\x01\x02\x14\x00");
        directory.extend(&header);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.bytes());
    }
    let (count, length) = (
        u16::try_from(files.len()).unwrap(),
        u32::try_from(directory.len()).unwrap(),
    );
    let offset = u32::try_from(archive.len()).unwrap();
    archive.extend(directory);
    archive.extend(*b"PK\x05\x06\x00\x00\x00\x00");
    archive.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    archive.extend([length.to_le_bytes(), offset.to_le_bytes()].concat());
    archive.extend([0, 0]);
    archive
}

/// The checksum of zip, a bit at a time.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 {
                (sum >> 1) ^ 0xEDB8_8320
            } else {
                sum >> 1
            }
        })
    })
}
