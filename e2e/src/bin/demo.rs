//! `cargo xtask demo`: one endpoint over two MCP servers that nobody here wrote.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use clap::Parser;
use serde_json::json;
use vmcp_e2e::client::Client;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::ports;
use vmcp_peers::server;
use vmcp_peers::step;

/// One endpoint over two MCP servers that nobody here wrote, on your machine, until you press Ctrl-C.
#[derive(Parser)]
#[command(name = "cargo xtask demo --", version)]
struct Args {
    /// The port of the endpoint; 4483, or a free one when that is taken
    #[arg(long)]
    port: Option<u16>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let everything = step(
        "start @modelcontextprotocol/server-everything, from npm",
        server::everything,
    )?;
    let time = step("start mcp-server-time behind FastMCP, from PyPI", server::time)?;
    let backends = [
        ("everything", everything.url.as_str()),
        ("time", time.url.as_str()),
    ];
    let recipe = Recipe::in_memory(&backends)?;
    let address = address(args.port)?;
    let gateway = step("start vmcp-gateway, sessions in its own memory", || {
        let mut gateway = recipe.start_unready(address)?;
        gateway.wait_until_ready()?;
        Ok(gateway)
    })?;
    let url = format!("http://{}/mcp", gateway.mcp);
    println!(
        "\nThe configuration of the gateway:\n\n{}",
        indented(&gateway.config()?)
    );
    runtime.block_on(converse(&url))?;
    println!("\nThe endpoint is up: {url}\n");
    println!("  an agent:     claude mcp add --transport http vmcp {url}");
    println!(
        "  an inspector: npx @modelcontextprotocol/inspector --cli {url} --transport http --method tools/list"
    );
    println!("  its status:   curl http://{}/status\n", gateway.admin);
    println!("Ctrl-C ends it, and both servers.");
    runtime.block_on(tokio::signal::ctrl_c())?;
    println!("\nended");
    Ok(())
}

async fn converse(url: &str) -> anyhow::Result<()> {
    let client = Client::connect(url).await?;
    println!("A client (rmcp) has opened a session. The tools of both servers, as one server offers them:\n");
    for tool in client.tools().await? {
        let description = tool.description.as_deref().unwrap_or_default();
        println!(
            "  {:32} {}",
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

/// The address for the endpoint: the port that was asked for, the usual one, or a free one.
fn address(port: Option<u16>) -> anyhow::Result<SocketAddr> {
    if let Some(port) = port {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    let usual: SocketAddr = (Ipv4Addr::LOCALHOST, 4483).into();
    if TcpListener::bind(usual).is_ok() {
        Ok(usual)
    } else {
        ports::free()
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
