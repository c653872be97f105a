//! Elicitation ids: a backend can only refer to its own elicitations, on every replica.

use serde_json::{Value, json};
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::scripted_server::{Received, Reply, ScriptedServer};
use vmcp_e2e::stream::Stream;
use vmcp_external::requires;

/// A stream of `first`, and then the call's result.
fn stream(request: &Received, first: &Value) -> Reply {
    let result = json!({"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": []}});
    Reply::new(
        200,
        "text/event-stream",
        format!("data: {first}\n\ndata: {result}\n\n").as_bytes(),
    )
}

/// A server whose tools ask the user to open a URL, and say that this is done.
fn server() -> anyhow::Result<ScriptedServer> {
    ScriptedServer::start(|request| {
        let elicitation = json!({
            "mode": "url", "elicitationId": "e1", "url": "https://example.test/e1", "message": "Please",
        });
        match (request.method(), request.name()) {
            ("tools/list", _) => {
                let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
                Some(request.result(&json!({"tools": [tool("ask"), tool("done"), tool("need")]})))
            }
            ("tools/call", "ask") => {
                let asks =
                    json!({"jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": elicitation});
                Some(stream(request, &asks))
            }
            ("tools/call", "done") => {
                let method = "notifications/elicitation/complete";
                let done = json!({"jsonrpc": "2.0", "method": method, "params": {"elicitationId": "e1"}});
                Some(stream(request, &done))
            }
            ("tools/call", _) => {
                let error =
                    json!({"code": -32042, "message": "URLs", "data": {"elicitations": [elicitation]}});
                let body = json!({"jsonrpc": "2.0", "id": request.message["id"], "error": error});
                Some(Reply::json(200, &body))
            }
            _ => None,
        }
    })
}

/// Two backends use the same id. The client sees two ids, and each only from its own backend: in requests, errors and notifications.
#[requires(redis)]
#[test]
fn elicitation_is_completed_by_its_own_backend_alone() -> anyhow::Result<()> {
    let (left, right) = (server()?, server()?);
    let builder = Harness::builder()
        .backend("left", &left.url)
        .backend("right", &right.url);
    let harness = builder.redis(Redis::start(None)?).replicas(2).start()?;
    let [one, two] = harness.all()?.each_ref().map(|gateway| gateway.mcp);
    let capabilities = json!({"elicitation": {"url": {}}});
    let session = Session::open_with(one, "2025-11-25", &capabilities)?;
    let said = |gateway, tool: &str| -> anyhow::Result<Value> {
        let mut stream = Stream::call(gateway, &session, &json!(1), tool, &json!({}))?;
        let message = stream.message()?;
        Ok(message["params"]["elicitationId"].clone())
    };
    let asked = said(one, "left_ask")?;
    assert!(
        asked.as_str().is_some_and(|id| id.starts_with("vmcp:")),
        "{asked}"
    );
    assert_eq!(said(two, "left_done")?, asked);
    let others = said(two, "right_done")?;
    assert_ne!(others, asked);
    assert_eq!(said(one, "right_ask")?, others);
    let error = session.call(two, "left_need", &json!({}))?.message()?;
    let needed = &error["error"]["data"]["elicitations"][0];
    assert_eq!(
        (&needed["elicitationId"], &needed["url"]),
        (&asked, &json!("https://example.test/e1"))
    );
    Ok(())
}
