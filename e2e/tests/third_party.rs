//! Third-party servers and the test server behind one gateway: everything that they serve is served byte for byte.

use serde_json::{Value, json};
use vmcp_e2e::http_client::{Answer, Session};
use vmcp_e2e::third_party::scripted_client::masked;
use vmcp_e2e::third_party::story::{self, Request};
use vmcp_e2e::third_party::{self, Conversation, LISTS, ThirdPartyServers};
use vmcp_external::requires;

/// The results and errors of these requests, as they stand on the wire.
fn outcomes(conversations: &[Conversation]) -> anyhow::Result<Vec<String>> {
    let mut outcomes = Vec::new();
    for conversation in conversations {
        let address = conversation.url.trim_start_matches("http://");
        let address = address.trim_end_matches("/mcp").parse()?;
        let session = third_party::session(address)?;
        for (method, params) in &conversation.requests {
            let answer = session.request(address, method, params)?;
            anyhow::ensure!(answer.message()?["id"] == 7, "{}", answer.text());
            outcomes.push(masked(answer.outcome()?.get()));
        }
    }
    Ok(outcomes)
}

/// A request through the gateway, for answers that are different each time.
fn ask(
    servers: &ThirdPartyServers,
    session: &Session,
    method: &str,
    params: &Value,
) -> anyhow::Result<Answer> {
    session.request(servers.gateway.mcp, method, params)
}

/// Everything that they list is listed byte for byte but for its name.
#[requires(npm, python, conformance)]
#[test]
fn lists_of_real_servers_pass_byte_for_byte() -> anyhow::Result<()> {
    let servers = ThirdPartyServers::shared()?;
    for (method, field, prefixed) in LISTS {
        let mut expected = Vec::new();
        for backend in &servers.backends {
            let session = third_party::session(backend.address)?;
            // What a server does not have, it does not list.
            if session.request(backend.address, method, &json!({}))?.error_code() == -32601 {
                continue;
            }
            for item in session.list(backend.address, method)? {
                let value: Value = serde_json::from_str(item.get())?;
                let name = value[field].as_str().unwrap_or_default();
                let advertised = if prefixed {
                    format!("{}_{name}", backend.name)
                } else {
                    name.to_owned()
                };
                let from = format!("\"{field}\":\"{name}\"");
                let to = format!("\"{field}\":\"{advertised}\"");
                expected.push((advertised, item.get().replacen(&from, &to, 1)));
            }
        }
        expected.sort();
        assert!(!expected.is_empty(), "{method}");
        let through = third_party::session(servers.gateway.mcp)?.list(servers.gateway.mcp, method)?;
        let through: Vec<_> = through.iter().map(|item| item.get()).collect();
        let expected: Vec<_> = expected.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(through, expected, "{method}");
    }
    let status = servers.gateway.status(&servers.recipe)?;
    let refused = [status.conflicts, status.faults].concat();
    assert!(refused.is_empty(), "{refused:?}");
    Ok(())
}

/// Calls return what the server responds, byte for byte.
#[requires(npm, python, conformance)]
#[test]
fn calls_return_server_response_byte_for_byte() -> anyhow::Result<()> {
    let servers = ThirdPartyServers::shared()?;
    let mut calls = story::calls(&servers.files());
    // It can only be called as a task, which these revisions do not have.
    let task = json!({"name": "simulate-research-query", "arguments": {"topic": "x"}});
    calls.push(Request::new("everything", "tools/call", task));
    servers.compare(&calls, outcomes)?;

    // The others: an answer of the right form, not an error.
    let session = third_party::session(servers.gateway.mcp)?;
    let changing = ["time_get_current_time", "everything_get-resource-reference"];
    let call = |tool: &str, arguments: Value| {
        let params = json!({"name": tool, "arguments": arguments});
        ask(&servers, &session, "tools/call", &params)
    };
    let now = call(changing[0], json!({"timezone": "UTC"}))?;
    assert!(now.tool_text()?.contains("\"timezone\""), "{}", now.text());
    let reference = call(changing[1], json!({"resourceType": "Text", "resourceId": 1}))?;
    assert!(
        reference.tool_text()?.contains("resource"),
        "{}",
        reference.text()
    );

    // A resource that no list names: a tool makes it for this session.
    let gzip = json!({"name": "a.gz", "data": "data:text/plain,hello", "outputType": "resourceLink"});
    call("everything_gzip-file-as-resource", gzip)?.outcome()?;
    let made = json!({"uri": "demo://resource/session/a.gz"});
    let made = ask(&servers, &session, "resources/read", &made)?.message()?;
    assert_eq!(
        made["result"]["contents"][0]["mimeType"], "application/gzip",
        "{made}"
    );

    // Every listed tool is called. Tools with server requests are called in third_party_clients.rs.
    let called: Vec<_> = calls
        .iter()
        .chain(&story::questions())
        .map(Request::renamed)
        .collect();
    for name in session.names(servers.gateway.mcp, "tools/list")? {
        assert!(
            called.iter().any(|params| params["name"] == json!(name))
                || changing.contains(&&*name)
                || name.starts_with("fixture_"),
            "{name} is new: call it"
        );
    }
    Ok(())
}

/// Resources, prompts and completions are passed on byte for byte.
#[requires(npm, python, conformance)]
#[test]
fn results_of_real_servers_pass_byte_for_byte() -> anyhow::Result<()> {
    let servers = ThirdPartyServers::shared()?;
    let mut requests = story::others();
    for backend in &servers.backends {
        let session = third_party::session(backend.address)?;
        let listed = session.request(backend.address, "resources/list", &json!({}))?;
        if listed.error_code() != -32601 {
            let uris = session.names(backend.address, "resources/list")?;
            let read = |uri| Request::new(backend.name, "resources/read", json!({"uri": uri}));
            requests.extend(uris.into_iter().map(read));
        }
    }
    servers.compare(&requests, outcomes)?;

    // Their texts hold the time of day, so that only their form can be the same.
    let session = third_party::session(servers.gateway.mcp)?;
    for kind in ["text", "blob"] {
        let uri = json!({"uri": format!("demo://resource/dynamic/{kind}/7")});
        let read = ask(&servers, &session, "resources/read", &uri)?.message()?;
        let text = read["result"]["contents"][0][kind].as_str().unwrap_or_default();
        assert!(!text.is_empty(), "{read}");
    }
    let changing = "everything_resource-prompt";
    let params = json!({"name": changing, "arguments": {"resourceType": "Text", "resourceId": "1"}});
    let got = ask(&servers, &session, "prompts/get", &params)?.message()?;
    assert_eq!(
        got["result"]["messages"][1]["content"]["type"], "resource",
        "{got}"
    );

    let asked: Vec<_> = requests.iter().map(Request::renamed).collect();
    for name in session.names(servers.gateway.mcp, "prompts/list")? {
        assert!(
            asked.iter().any(|params| params["name"] == json!(name))
                || name == changing
                || name.starts_with("fixture_"),
            "{name} is new: get it"
        );
    }
    Ok(())
}

/// The gateway's instructions contain those of each backend under its name.
#[requires(npm, python, conformance)]
#[test]
fn instructions_are_listed_by_backend_name() -> anyhow::Result<()> {
    let servers = ThirdPartyServers::shared()?;
    let hello = vmcp_e2e::http_client::initialize(servers.gateway.mcp)?.message()?;
    let instructions = hello["result"]["instructions"].as_str().unwrap_or_default();
    for expected in [
        "# everything\n\n# Everything Server",
        "# sessionless\n\nNothing is remembered",
        "# fixture\n\nA server for tests.",
    ] {
        assert!(instructions.contains(expected), "{instructions}");
    }
    Ok(())
}
