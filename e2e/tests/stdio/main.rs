//! Backends with a command: programs that the gateway runs, and that speak on their standard streams.

mod bridge;
mod calls;
mod ends;
mod faults;
mod processes;

use std::path::PathBuf;
use std::time::Duration;

use vmcp_crds::config::{BackendConfig, VariableSource};
use vmcp_e2e::binaries;
use vmcp_e2e::gateway::Recipe;

const LIMIT: Duration = Duration::from_secs(20);

/// Gateways with the backend `local`, which runs `command`.
fn recipe(command: &[&str]) -> anyhow::Result<Recipe> {
    let mut recipe = Recipe::new(&[])?;
    recipe.hot().backends = vec![backend("local", command)];
    Ok(recipe)
}

/// Gateways with the backend `local`, which runs the test server.
fn test_server() -> anyhow::Result<Recipe> {
    recipe(&[&server()?, "--stdio"])
}

/// The path of the test server.
fn server() -> anyhow::Result<String> {
    Ok(binaries::path("vmcp-test-server")?.display().to_string())
}

fn backend(name: &str, command: &[&str]) -> BackendConfig {
    BackendConfig {
        name: name.to_owned(),
        command: command.iter().map(|&part| part.to_owned()).collect(),
        ..BackendConfig::default()
    }
}

fn value(text: &str) -> VariableSource {
    VariableSource {
        value: Some(text.to_owned()),
        ..VariableSource::default()
    }
}

/// The ids of all processes whose environment has the variable `MARK` with the value `mark`.
fn marked(mark: &str) -> anyhow::Result<Vec<String>> {
    let wanted = format!("MARK={mark}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path: PathBuf = entry?.path();
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        if environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_bytes())
        {
            found.extend(path.file_name().map(|id| id.to_string_lossy().into_owned()));
        }
    }
    Ok(found)
}

/// The ids of the marked processes that run the test server itself.
fn servers(mark: &str) -> anyhow::Result<Vec<String>> {
    let server = server()?;
    let mut found = marked(mark)?;
    found.retain(|id| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.starts_with(server.as_bytes())
    });
    Ok(found)
}

/// A mark that no other test uses.
fn new_mark(test: &str) -> String {
    format!("{test}-{}", std::process::id())
}
