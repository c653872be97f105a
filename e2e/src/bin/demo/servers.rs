//! Shows one endpoint over two third-party MCP servers, one behind HTTP and one that the gateway starts: their tools in one list, progress as it
//! arrives, and one server undisturbed while the other is killed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_crds::config::{BackendConfig, FailureMode};
use vmcp_e2e::client::Client;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::Session;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;
use vmcp_external::server::{self, Server};
use vmcp_external::{python, step};

/// How long the gateway may take to notice that a server is away, or back.
const SOON: Duration = Duration::from_secs(30);

/// How many calls show that a server is undisturbed.
const CALLS: usize = 20;

pub(crate) fn show(address: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut everything = step(
        "start @modelcontextprotocol/server-everything, from npm",
        server::everything,
    )?;
    let mut recipe = Recipe::in_memory(&[("everything", everything.url.as_str())])?;
    let hot = recipe.hot();
    hot.backends.push(time()?);
    // So that one sees in the list that a server is away.
    hot.aggregation.failure_mode = FailureMode::Hide;
    hot.aggregation.refresh = vmcp_crds::config::Duration::from_secs(1);
    let gateway = step(
        "start vmcp-gateway, which starts mcp-server-time, from PyPI",
        || {
            let mut gateway = recipe.start_unready(address)?;
            gateway.wait_until_ready()?;
            Ok(gateway)
        },
    )?;
    let url = format!("http://{}/mcp", gateway.mcp);
    println!(
        "\nThe configuration of the gateway:\n\n{}",
        indented(&gateway.config()?)
    );
    runtime.block_on(converse(&url))?;
    let session = Session::open(gateway.mcp)?;
    progress(&gateway, &session)?;
    kill_and_bring_back(&gateway, &session, &mut everything)?;
    println!("\nThe endpoint is up: {url}\n");
    println!("  an agent:     claude mcp add --transport http vmcp {url}");
    println!("  an inspector: cargo xtask inspector --cli {url} --transport http --method tools/list");
    println!("  its status:   curl http://{}/status\n", gateway.admin);
    println!("Ctrl-C ends it, and both servers.");
    runtime.block_on(tokio::signal::ctrl_c())?;
    println!("\nended");
    Ok(())
}

/// A program that speaks on its standard streams. The gateway starts one for each session.
fn time() -> anyhow::Result<BackendConfig> {
    let python = python::venv()?.python().display().to_string();
    Ok(BackendConfig {
        name: "time".to_owned(),
        command: vec![python, "-m".to_owned(), "mcp_server_time".to_owned()],
        ..BackendConfig::default()
    })
}

async fn converse(url: &str) -> anyhow::Result<()> {
    let client = Client::connect(url).await?;
    println!("A client (rmcp) has opened a session. The tools of both servers, as one server offers them:\n");
    for tool in client.tools().await? {
        let description = tool.description.as_deref().unwrap_or_default();
        println!(
            "  {:40} {}",
            tool.name,
            description.lines().next().unwrap_or_default()
        );
    }
    println!("\nOne call to each:\n");
    for (tool, arguments) in [
        ("everything_echo", json!({"message": "hello through the gateway"})),
        ("time_get_current_time", json!({"timezone": "UTC"})),
    ] {
        let answer = client.call(tool, arguments.clone()).await?;
        println!(
            "  {tool} {arguments}\n    -> {}",
            answer.replace('\n', "\n       ")
        );
    }
    client.close().await
}

fn progress(gateway: &Gateway, session: &Session) -> anyhow::Result<()> {
    println!("\nA call that takes two seconds tells how far it is, as it goes:\n");
    let tool = "everything_trigger-long-running-operation";
    let arguments = json!({"duration": 2, "steps": 4});
    println!("  {tool} {arguments}");
    let began = Instant::now();
    let mut stream = Stream::call(gateway.mcp, session, &json!("long"), tool, &arguments)?;
    loop {
        let message = stream.message()?;
        let after = began.elapsed().as_secs_f32();
        if message["method"] == "notifications/progress" {
            let params = &message["params"];
            println!(
                "    {after:.1} s: step {} of {}",
                params["progress"], params["total"]
            );
        } else if message["id"] == "long" {
            println!("    {after:.1} s: {}", text(&message)?);
            return Ok(());
        }
    }
}

fn kill_and_bring_back(gateway: &Gateway, session: &Session, everything: &mut Server) -> anyhow::Result<()> {
    let before = calls_to_time(gateway, session)?;
    everything.process.kill()?;
    println!("\nThe server everything is killed.\n");
    let echo = || {
        let answer = session.call(
            gateway.mcp,
            "everything_echo",
            &json!({"message": "are you there?"}),
        )?;
        answer.message()
    };
    let refused = echo()?;
    ensure!(refused["result"]["isError"] == true, "it answers: {refused}");
    println!("  everything_echo\n    -> {}", text(&refused)?);
    let during = calls_to_time(gateway, session)?;
    println!(
        "  {CALLS} calls to time: all answered; median {:.1} ms, and {:.1} ms before",
        millis(during),
        millis(before)
    );
    let listed = |of_everything: bool| {
        wait::until("the list of tools changes", SOON, || {
            let names = session.names(gateway.mcp, "tools/list")?;
            let is_listed = names.iter().any(|name| name.starts_with("everything_"));
            ensure!(is_listed == of_everything, "{names:?}");
            Ok(names.len())
        })
    };
    println!(
        "  {} tools are listed: failureMode is hide, and the others go on",
        listed(false)?
    );
    step("start everything again", || everything.start_again())?;
    let began = Instant::now();
    let back = listed(true)?;
    println!(
        "\nThe server everything is back.\n\n  {back} tools are listed, {:.1} s after it answered",
        began.elapsed().as_secs_f32()
    );
    println!(
        "  everything_echo, in the session of before\n    -> {}",
        text(&echo()?)?
    );
    Ok(())
}

/// The median of some calls, of which none may fail.
fn calls_to_time(gateway: &Gateway, session: &Session) -> anyhow::Result<Duration> {
    let call = || {
        let began = Instant::now();
        let answer = session.call(gateway.mcp, "time_get_current_time", &json!({"timezone": "UTC"}))?;
        let answered = answer.tool_text()?;
        ensure!(answered.contains("UTC"), "{answered}");
        Ok(began.elapsed())
    };
    let mut took: Vec<Duration> = (0..CALLS).map(|_| call()).collect::<anyhow::Result<_>>()?;
    took.sort_unstable();
    Ok(took[CALLS / 2])
}

fn text(message: &Value) -> anyhow::Result<&str> {
    let text = message["result"]["content"][0]["text"].as_str();
    text.with_context(|| format!("no text in {message}"))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
