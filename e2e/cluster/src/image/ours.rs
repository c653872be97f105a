//! Builds the images of the programs of this workspace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;
use vmcp_external::previous_commit::PreviousCommit;

use super::{Config, Image, libraries};

/// The programs, and the names of their images without tags.
const PROGRAMS: [(&str, &str); 3] = [
    ("vmcp-gateway", "gateway"),
    ("vmcp-operator", "operator"),
    ("vmcp-test-server", TEST_SERVER),
];

const TEST_SERVER: &str = "test-server";
/// Where the test server listens in a container.
const TEST_SERVER_LISTENS: [&str; 2] = [
    "TEST_SERVER_LISTEN=0.0.0.0:8080",
    "TEST_SERVER_ADMIN=0.0.0.0:8081",
];

/// The cargo profile for the programs of this workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// The profile of releases: slow to compile, small, fast, and without shared libraries.
    #[default]
    Image,
    /// The profile of tests: already built if `cargo xtask test` has run.
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

/// Compiles the gateway, the operator and the fixture, and writes the image of each to `NAME.tar` in `dir`. Its names are
/// `vmcp.dev/NAME:dev` and `vmcp.dev/NAME:VERSION`.
///
/// # Errors
/// If one does not compile, a program of a release needs shared libraries, or a file cannot be written.
pub fn ours(dir: &Path, profile: Profile) -> anyhow::Result<Vec<PathBuf>> {
    let programs = compile(profile)?;
    if profile == Profile::Image {
        programs.values().try_for_each(|program| ensure_static(program))?;
    }
    PROGRAMS
        .iter()
        .map(|(program, name)| {
            let built = programs
                .get(*program)
                .with_context(|| format!("cargo built no program {program}"))?;
            // The charts use the image with their own version as tag.
            write(
                &dir.join(format!("{name}.tar")),
                built,
                (program, name),
                &["dev", env!("CARGO_PKG_VERSION")],
            )
        })
        .collect()
}

/// Writes the images of the gateway and the operator of the previous commit to `previous-NAME.tar` in `dir`. Their names are
/// `vmcp.dev/NAME:previous`.
///
/// # Errors
/// If a file cannot be written.
pub fn previous(dir: &Path, commit: &PreviousCommit) -> anyhow::Result<Vec<PathBuf>> {
    PROGRAMS
        .iter()
        .filter(|(_, name)| *name != TEST_SERVER)
        .map(|(program, name)| {
            let archive = dir.join(format!("previous-{name}.tar"));
            write(&archive, &commit.program(program), (program, name), &["previous"])
        })
        .collect()
}

/// Writes the image of the program at `built` to `archive`: its name in the image, the name of the image, and its tags.
fn write(
    archive: &Path,
    built: &Path,
    (program, name): (&str, &str),
    tags: &[&str],
) -> anyhow::Result<PathBuf> {
    let inside = format!("/usr/local/bin/{program}");
    let mut names = tags.iter().map(|tag| format!("vmcp.dev/{name}:{tag}"));
    let first = names.next().context("an image needs a tag")?;
    let mut config = Config::running([inside.as_str()]);
    if name == TEST_SERVER {
        config.environment = TEST_SERVER_LISTENS.map(str::to_owned).to_vec();
    }
    let mut image = Image::new(&first, config);
    names.for_each(|name| image.also_named(&name));
    image.base();
    image.program(built, &inside)?;
    image.write(archive)?;
    Ok(archive.to_owned())
}

/// Checks that the program runs in every image: the gateway is copied into the pods of servers, as their bridge.
fn ensure_static(program: &Path) -> anyhow::Result<()> {
    let libraries = libraries::of(program)?;
    if !libraries.is_empty() {
        bail!("{} needs shared libraries: {libraries:?}", program.display());
    }
    Ok(())
}

/// Compiles the programs, and returns their paths by name.
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
        // The same arguments as in `cargo xtask test`, so that nothing is compiled again. Another selection of packages and
        // targets would have other features and compile the dependencies again.
        Profile::Dev => {
            command.args(["--workspace", "--bins", "--examples", "--tests"]);
        }
        Profile::Image => {
            // With `--target`, the flags are not those of build scripts and procedural macros, which cannot be static.
            let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
            command.args(["--target", &target]);
            command.env("RUSTFLAGS", "-C target-feature=+crt-static");
            command.env_remove("CARGO_ENCODED_RUSTFLAGS");
            for (program, _) in PROGRAMS {
                command.args(["--package", program, "--bin", program]);
            }
        }
    }
    let output = command
        // The current folder of the user may be outside the workspace.
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
        // The unit tests of a program are an executable of the same name.
        .filter(|message| message.pointer("/profile/test") == Some(&Value::Bool(false)))
        .filter_map(|message| {
            let program = message.pointer("/target/name")?.as_str()?.to_owned();
            Some((program, PathBuf::from(message.get("executable")?.as_str()?)))
        })
        .collect()
}
