//! The images of our own programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{Config, Image};

/// The programs, and their images' names without the tag.
const PROGRAMS: [(&str, &str); 3] = [
    ("vmcp-gateway", "gateway"),
    ("vmcp-operator", "operator"),
    ("vmcp-fixture", "fixture"),
];

/// How our programs are compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// As in a release: slow to compile, small and fast.
    #[default]
    Image,
    /// As in a test: built already where `cargo xtask test` has run.
    Dev,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Dev => "dev",
        }
    }
}

/// Compiles the gateway, the operator and the fixture, and packs each as `NAME.tar` in `dir`, with the name
/// `vmcp.dev/NAME:dev`, and with the version as its tag.
///
/// # Errors
/// When one does not compile, or a file cannot be written.
pub fn ours(dir: &Path, profile: Profile) -> anyhow::Result<Vec<PathBuf>> {
    let programs = compile(profile)?;
    PROGRAMS
        .iter()
        .map(|(program, name)| {
            let built = programs
                .get(*program)
                .with_context(|| format!("cargo built no program {program}"))?;
            let inside = format!("/usr/local/bin/{program}");
            let mut image = Image::new(
                &format!("vmcp.dev/{name}:dev"),
                Config::running([inside.as_str()]),
            );
            // The charts ask for the version that they have.
            image.also_named(&format!("vmcp.dev/{name}:{}", env!("CARGO_PKG_VERSION")));
            image.base();
            image.program(built, &inside)?;
            let archive = dir.join(format!("{name}.tar"));
            image.write(&archive)?;
            Ok(archive)
        })
        .collect()
}

/// The compiled programs by name.
fn compile(profile: Profile) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--locked",
        "--profile",
        profile.name(),
        "--message-format",
        "json-render-diagnostics",
    ]);
    match profile {
        // As `cargo xtask test` builds, so that nothing is left to do after it: another selection of packages and targets
        // has other features, and compiles the dependencies anew.
        Profile::Dev => {
            command.args(["--workspace", "--bins", "--examples", "--tests"]);
        }
        Profile::Image => {
            for (program, _) in PROGRAMS {
                command.args(["--package", program, "--bin", program]);
            }
        }
    }
    let output = command
        // Where this crate stands, and not where the user does: the workspace is ours.
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo could not build the programs");
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        // The tests of a program are an executable of the same name.
        .filter(|message| message.pointer("/profile/test") == Some(&Value::Bool(false)))
        .filter_map(|message| {
            let program = message.pointer("/target/name")?.as_str()?.to_owned();
            Some((program, PathBuf::from(message.get("executable")?.as_str()?)))
        })
        .collect()
}
