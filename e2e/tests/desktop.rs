//! Servers that are programs, as a user of a laptop configures and imports them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use vmcp_crds::config::GatewayConfig;
use vmcp_e2e::desktop_programs::Desktop;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::{binaries, ports, wait};
use vmcp_external::process::Process;
use vmcp_external::requires;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The first block of a page in this language.
fn block<'a>(page: &'a str, language: &str) -> &'a str {
    let block = page.split(&format!("```{language}\n")).nth(1);
    block
        .and_then(|rest| rest.split("```").next())
        .unwrap_or_default()
}

/// The desktop example runs as it is but for its addresses and its folder, with its three servers.
#[requires(npm, python, conformance)]
#[test]
fn desktop_example_runs_its_three_servers() -> anyhow::Result<()> {
    let desktop = Desktop::new()?;
    vmcp_external::run::run(
        Command::new("git")
            .args(["init", "--quiet"])
            .arg(&desktop.project),
    )?;
    let mut recipe = Recipe::new(&[])?;
    recipe.config.hot = GatewayConfig::load(&root().join("examples/desktop.yaml"))?.hot;
    for backend in &mut recipe.hot().backends {
        ensure!(backend.working_directory.is_none(), "{backend:?}");
        backend.working_directory = Some(desktop.project.clone());
    }
    recipe.environment.insert("PATH".to_owned(), desktop.path.clone());
    recipe
        .environment
        .insert("HOME".to_owned(), desktop.home.display().to_string());
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let project = desktop.project.display().to_string();
    for (tool, arguments, expected) in [
        ("files_list_allowed_directories", json!({}), &*project),
        (
            "time_get_current_time",
            json!({"timezone": "Europe/Berlin"}),
            "Europe/Berlin",
        ),
        ("git_git_status", json!({"repo_path": project}), "package.json"),
    ] {
        let answer = session.call(gateway.mcp, tool, &arguments)?;
        assert!(
            answer.tool_text()?.contains(expected),
            "{tool}: {}",
            answer.text()
        );
    }
    Ok(())
}

/// The commands of docs/desktop.md import the list of a client and start a gateway with its servers.
#[requires(npm, python, conformance)]
#[test]
fn desktop_page_commands_import_and_serve() -> anyhow::Result<()> {
    let page = std::fs::read_to_string(root().join("docs/desktop.md"))?;
    let (list, commands) = (block(&page, "json"), block(&page, "sh"));
    let desktop = Desktop::new()?;
    let file = desktop.home.join(".config/Claude/claude_desktop_config.json");
    std::fs::create_dir_all(file.parent().context("the file is in a folder")?)?;
    let memory = desktop.project.join("memory.jsonl").display().to_string();
    std::fs::write(file, list.replace("/tmp/memory.jsonl", &memory))?;
    // As in the page, but on free ports.
    let (mcp, admin) = (ports::free()?, ports::free()?);
    let listeners = format!("listeners: {{mcp: '{mcp}', admin: '{admin}'}}");
    let (import, rest) = commands.split_once('\n').context("there are several commands")?;
    let script = format!("{import}\necho \"{listeners}\" >> gateway.yaml\n{rest}");
    let program = binaries::path("vmcp-gateway")?;
    let folder = program.parent().context("a program is in a folder")?.display();
    let mut shell = Command::new("sh");
    shell
        .args(["-euc", &script])
        .current_dir(&desktop.project)
        .env("HOME", &desktop.home)
        .env("PATH", format!("{folder}:{}", desktop.path));
    let mut process = Process::start("desktop", &shell)?;
    let ready = wait::until("the gateway is ready", Duration::from_secs(60), || {
        ensure!(process.ended()?.is_none(), "the commands have ended");
        let answer = http_client::get(admin, "/readyz", &[])?;
        ensure!(answer.status == 200, "{}", answer.text());
        Ok(())
    });
    ready.map_err(|error| error.context(process.last_words()))?;
    let session = Session::open(mcp)?;
    let observed = json!({"entities": [{"name": "Ada", "entityType": "person", "observations": []}]});
    session
        .call(mcp, "memory_create_entities", &observed)?
        .outcome()?;
    assert!(
        std::fs::read_to_string(&memory)?.contains("Ada"),
        "the variable of the imported file counts"
    );
    let time = session.call(mcp, "time_get_current_time", &json!({"timezone": "UTC"}))?;
    assert!(time.tool_text()?.contains("UTC"), "{}", time.text());
    let configuration = std::fs::read_to_string(desktop.project.join("gateway.yaml"))?;
    assert!(!configuration.contains(&memory), "{configuration}");
    Ok(())
}
