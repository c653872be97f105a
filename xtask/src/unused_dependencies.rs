//! Finds dependencies that no code uses.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value as Json;
use vmcp_peers::step::step;

use crate::cargo::{self, cargo};

/// Fails when a package lists a dependency that its code does not use, or when the workspace lists one that no package inherits.
/// `machete` is the path of `cargo-machete`, which knows nothing of the workspace's own list.
pub(crate) fn check(machete: &Path) -> anyhow::Result<()> {
    step("cargo machete", || {
        let status = Command::new(machete)
            .arg("--skip-target-dir")
            // With it, cargo-machete takes its first argument for the name of a subcommand of cargo.
            .env_remove("CARGO")
            .current_dir(cargo::root())
            .status()
            .with_context(|| format!("cannot run {}", machete.display()))?;
        cargo::succeeded(status).context("a dependency is not used")?;
        let workspace = read(&cargo::root().join("Cargo.toml"))?;
        let unused = not_inherited(&workspace, &member_manifests()?);
        if !unused.is_empty() {
            bail!(
                "Cargo.toml: no package inherits {} of [workspace.dependencies]; remove it there",
                unused.join(", ")
            );
        }
        Ok(())
    })
}

/// The text of every package's manifest.
fn member_manifests() -> anyhow::Result<Vec<String>> {
    let arguments = "metadata --no-deps --offline --locked --format-version 1";
    let words: Vec<&str> = arguments.split(' ').collect();
    let output = cargo(&words)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo metadata")?;
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
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
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

    /// The reader understands this repository's own manifest: a list that it cannot read would never be wrong.
    #[test]
    fn workspace_manifest_is_understood() {
        let all = not_inherited(include_str!("../../Cargo.toml"), &[]);
        assert!(all.contains(&"tokio") && all.contains(&"vmcp-crds"), "{all:?}");
    }
}
