//! Finds dependencies that no code uses.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value as Json;
use vmcp_external::step::step;

use crate::cargo::{self, cargo};

/// Fails if a package has a dependency that its code does not use, or if the workspace has one that no package inherits. `machete` is the
/// path of `cargo-machete`, which checks only packages.
pub(crate) fn check(machete: &Path) -> anyhow::Result<()> {
    step("cargo machete", || {
        let status = Command::new(machete)
            .arg("--skip-target-dir")
            // If it is set, cargo-machete takes its first argument for a subcommand of cargo.
            .env_remove("CARGO")
            .current_dir(cargo::root())
            .status()
            .with_context(|| format!("failed to run {}", machete.display()))?;
        cargo::succeeded(status).context("a dependency is not used")?;
        let workspace = read(&cargo::root().join("Cargo.toml"))?;
        let unused = not_inherited(&workspace, &member_manifests()?);
        if !unused.is_empty() {
            bail!(
                "Cargo.toml: no package inherits {} from [workspace.dependencies]; remove it there",
                unused.join(", ")
            );
        }
        Ok(())
    })
}

/// The contents of the manifests of all packages.
fn member_manifests() -> anyhow::Result<Vec<String>> {
    let arguments = "metadata --no-deps --offline --locked --format-version 1";
    let words: Vec<&str> = arguments.split(' ').collect();
    let output = cargo(&words)
        .stderr(Stdio::inherit())
        .output()
        .context("failed to run cargo metadata")?;
    cargo::succeeded(output.status)?;
    let metadata: Json = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array();
    let packages = packages.context("cargo metadata lists no packages")?.iter();
    packages
        .filter_map(|package| package["manifest_path"].as_str())
        .map(|path| read(Path::new(path)))
        .collect()
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

/// The names in `[workspace.dependencies]` that no manifest of `members` inherits.
fn not_inherited<'a>(workspace: &'a str, members: &[String]) -> Vec<&'a str> {
    let section = workspace.split("\n[workspace.dependencies]\n").nth(1);
    let section = section
        .and_then(|rest| rest.split("\n[").next())
        .unwrap_or_default();
    let names = section
        .lines()
        .filter_map(|line| line.split_once('=').map(|(name, _)| name.trim()));
    names
        .filter(|name| !name.starts_with('#') && !members.iter().any(|member| inherits(member, name)))
        .collect()
}

/// Whether a line of `manifest` is `name.workspace = true` or `name = { workspace = true, ... }`.
fn inherits(manifest: &str, name: &str) -> bool {
    manifest.lines().any(|line| {
        line.strip_prefix(name).is_some_and(|rest| {
            let rest = rest.replace(' ', "");
            rest.starts_with(".workspace=true") || rest.starts_with("={workspace=true")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: &str = "[workspace]\nmembers = [\"a\"]\n\n[workspace.dependencies]\na = { path = \"a\" }\n\
        # A comment = with a sign.\nhttp = \"1\"\nhttp-body = \"1\"\nuuid = { version = \"1\" }\n\n[profile.dev]\ndebug = false\n";

    #[test]
    fn dependency_that_no_member_inherits_is_found() {
        let members = [
            "[dependencies]\na.workspace = true\nhttp-body = { workspace = true, features = [] }\n"
                .to_owned(),
            "[dev-dependencies]\nuuid = \"1\"\n".to_owned(),
        ];
        assert_eq!(not_inherited(WORKSPACE, &members), ["http", "uuid"]);
    }

    /// The manifest of this repository can be parsed. Otherwise the check would never find anything.
    #[test]
    fn workspace_manifest_can_be_parsed() {
        let all = not_inherited(include_str!("../../Cargo.toml"), &[]);
        assert!(all.contains(&"tokio") && all.contains(&"vmcp-crds"), "{all:?}");
    }
}
