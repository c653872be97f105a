//! Third-party servers that speak on their standard streams give the same through the gateway as over their pipes.

use std::iter;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::stdio_servers::{self, Sdk, StdioServer};
use vmcp_e2e::third_party::scripted_client::play;
use vmcp_external::requires;

/// A conversation for a scripted client: the list of the tools, and the calls. `prefix` stands before the names of the tools.
fn requests(server: &StdioServer, prefix: &str) -> Vec<Value> {
    let calls = server.calls.iter().map(|call| {
        let params = json!({"name": format!("{prefix}{}", call.tool), "arguments": call.arguments});
        json!({"method": "tools/call", "params": params})
    });
    let list = json!({"method": "tools/list", "params": {}});
    iter::once(list).chain(calls).collect()
}

/// Lets the client on `sdk` have these conversations, and returns its report of each response, by conversation.
fn ask(sdk: Sdk, servers: &[&StdioServer], conversations: Vec<Value>) -> anyhow::Result<Vec<Vec<Value>>> {
    let mut answers = play(sdk.client()?, &Value::from(conversations))?.into_iter();
    let by_server = servers.iter().map(|server| {
        let answers: Vec<_> = answers.by_ref().take(1 + server.calls.len()).collect();
        ensure!(
            answers.len() == 1 + server.calls.len(),
            "{}: {answers:?}",
            server.name
        );
        Ok(answers)
    });
    by_server.collect()
}

/// The tools of `server` in the gateway's list, with the server's own names.
fn own_tools(listed: &Value, server: &StdioServer) -> Vec<Value> {
    let prefix = format!("{}_", server.name);
    let tools = listed.as_array().into_iter().flatten();
    tools
        .filter_map(|tool| {
            let mut tool = tool.clone();
            let name = tool["name"].as_str()?.strip_prefix(&prefix)?.to_owned();
            tool["name"] = json!(name);
            Some(tool)
        })
        .collect()
}

fn by_name(listed: &Value) -> Vec<Value> {
    let mut tools: Vec<_> = listed.as_array().into_iter().flatten().cloned().collect();
    tools.sort_by_key(|tool| tool["name"].as_str().map(str::to_owned));
    tools
}

/// Each server lists the same tools, and its calls have the same results, progress and requests to the client. A server that ends at once
/// stops no other.
#[requires(npm, python, conformance)]
#[test]
fn stdio_servers_answer_as_over_their_pipes() -> anyhow::Result<()> {
    let directory = TempDir::new()?;
    // Servers that resolve links compare the path with their roots.
    let directory = directory.path().canonicalize()?;
    let roots = json!([format!("file://{}", directory.join("files").display())]);
    stdio_servers::reset(&directory)?;
    let servers = stdio_servers::all(&directory)?;
    let mut recipe = Recipe::new(&[])?;
    recipe.hot().backends = servers.iter().map(StdioServer::backend).collect();
    // The filesystem server ends at once when its folder is missing.
    let filesystem = servers.iter().find(|server| server.name == "filesystem");
    let mut broken = filesystem.context("there is a server for files")?.backend();
    broken.name = "broken".to_owned();
    broken.command.pop();
    broken.command.push("/nowhere".to_owned());
    recipe.hot().backends.push(broken);
    let gateway = recipe.start()?;
    for sdk in [Sdk::TypeScript, Sdk::Python] {
        let servers: Vec<_> = servers.iter().filter(|server| server.sdk == sdk).collect();
        let direct = servers.iter().map(
            |server| json!({"command": server.script(), "roots": roots, "requests": requests(server, "")}),
        );
        let through = servers.iter().map(|server| {
            let requests = requests(server, &format!("{}_", server.name));
            json!({"url": format!("http://{}/mcp", gateway.mcp), "roots": roots, "requests": requests})
        });
        stdio_servers::reset(&directory)?;
        let direct = ask(sdk, &servers, direct.collect()).context("over the pipes")?;
        stdio_servers::reset(&directory)?;
        let through = ask(sdk, &servers, through.collect()).context("through the gateway")?;
        for ((server, direct), through) in iter::zip(servers, direct).zip(through) {
            compare(server, &direct, &through)?;
        }
    }
    let status = serde_json::to_value(gateway.status(&recipe)?)?.to_string();
    assert!(status.contains("directories are accessible"), "{status}");
    Ok(())
}

/// Compares the list of the tools, and the results of the calls with what they bring on the way.
fn compare(server: &StdioServer, direct: &[Value], through: &[Value]) -> anyhow::Result<()> {
    let (expected, listed) = (
        by_name(&direct[0]["result"]),
        own_tools(&through[0]["result"], server),
    );
    ensure!(
        !expected.is_empty(),
        "{} lists nothing: {}",
        server.name,
        direct[0]
    );
    assert_eq!(listed, expected, "{} ({})", server.name, server.habit);
    for ((call, direct), through) in iter::zip(&server.calls, &direct[1..]).zip(&through[1..]) {
        let text = direct.to_string();
        ensure!(
            text.contains(&call.expected),
            "{} {}: {text:.2000}",
            server.name,
            call.tool
        );
        let is_long_running = call.tool.contains("long-running");
        ensure!(
            !is_long_running || comparable(direct)["reported"] != json!([]),
            "{direct}"
        );
        assert!(
            comparable(through) == comparable(direct),
            "{} {} ({}):\n{through:.2000}\nand not\n{direct:.2000}",
            server.name,
            call.tool,
            server.habit
        );
    }
    Ok(())
}

/// The answer without what differs from one time to the next. The gateway gives elicitations ids of its own. The TypeScript SDK loses a report of
/// progress if the result arrives in the same read, so the last report, which everything sends with the result, does not count.
fn comparable(answer: &Value) -> Value {
    let mut answer = answer.clone();
    let asked = answer["asked"].as_array_mut().into_iter().flatten();
    for id in asked.filter_map(|asked| asked.pointer_mut("/params/elicitationId")) {
        *id = Value::Null;
    }
    if let Some(reported) = answer["reported"].as_array_mut() {
        reported.retain(|report| report["progress"] != report["total"]);
    }
    answer
}

/// Two sessions have two processes: neither sees the state of the other.
#[requires(npm, python, conformance)]
#[test]
fn stdio_sessions_share_no_state() -> anyhow::Result<()> {
    let directory = TempDir::new()?;
    stdio_servers::reset(directory.path())?;
    let servers = stdio_servers::all(directory.path())?;
    let thinking = servers.iter().find(|server| server.name == "thinking");
    let thinking = thinking.context("there is a server with state in its memory")?;
    assert_eq!(thinking.sdk, Sdk::TypeScript);
    let mut recipe = Recipe::new(&[])?;
    recipe.hot().backends = vec![thinking.backend()];
    let gateway = recipe.start()?;
    let think = |session: &Session| -> anyhow::Result<Value> {
        let call = &thinking.calls[0];
        let answer = session.call(gateway.mcp, "thinking_sequentialthinking", &call.arguments)?;
        Ok(answer.message()?["result"]["structuredContent"]["thoughtHistoryLength"].clone())
    };
    let (one, other) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    assert_eq!(think(&one)?, 1);
    assert_eq!(think(&one)?, 2);
    assert_eq!(think(&other)?, 1);
    assert_eq!(think(&one)?, 3);
    Ok(())
}
