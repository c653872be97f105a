//! Third-party clients run with their Node against a third-party server.

use std::process::Command;

use anyhow::Context as _;
use serde_json::Value as Json;
use vmcp_external::{npm, requires, server};

#[requires(npm, conformance)]
#[test]
fn inspector_lists_tools_of_server_everything() -> anyhow::Result<()> {
    let everything = server::everything()?;
    let packages = npm::conformance()?;
    let mut inspector = packages.command("mcp-inspector");
    inspector
        .args(["--cli", &everything.url, "--transport", "http"])
        .args(["--method", "tools/list"]);
    let answer: Json = serde_json::from_str(&output(&mut inspector)?)?;
    let tools = answer["tools"].as_array().context("no tools")?;
    assert!(tools.iter().any(|tool| tool["name"] == "echo"), "{answer}");
    Ok(())
}

#[requires(conformance)]
#[test]
fn conformance_suite_lists_its_scenarios() -> anyhow::Result<()> {
    let scenarios = output(npm::conformance()?.command("conformance").arg("list"))?;
    assert!(scenarios.contains("server-initialize"), "{scenarios}");
    Ok(())
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output()?;
    anyhow::ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
