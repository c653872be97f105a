//! Requests, notifications and requests of the server work as over HTTP.

use serde_json::json;
use vmcp_crds::config::ProcessMode;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

use crate::{LIMIT, recipe, server, test_server};

/// The same server lists and answers the same on its streams and over HTTP.
#[test]
fn stdio_server_offers_and_answers_like_http() -> anyhow::Result<()> {
    let mut recipe = test_server()?;
    let over_http = TestServer::start(&[])?;
    recipe.hot().backends.push(vmcp_crds::config::BackendConfig {
        name: "http".to_owned(),
        url: over_http.url.clone(),
        ..Default::default()
    });
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    for method in ["tools/list", "prompts/list"] {
        let names = session.names(gateway.mcp, method)?;
        let of = |prefix: &str| {
            let own = names.iter().filter_map(|name| name.strip_prefix(prefix));
            let mut own: Vec<&str> = own.collect();
            own.sort_unstable();
            own
        };
        assert!(!of("local_").is_empty(), "{method}: {names:?}");
        assert_eq!(of("local_"), of("http_"), "{method}");
    }
    for (tool, arguments) in [
        ("echo", json!({"message": "grüezi\n\u{2028}"})),
        ("big", json!({"bytes": 2_000_000})),
        ("test_image_content", json!({})),
        ("test_error_handling", json!({})),
        ("echo", json!({"message": 7})),
    ] {
        let outcome = |prefix: &str| -> anyhow::Result<String> {
            let answer = session.call(gateway.mcp, &format!("{prefix}_{tool}"), &arguments)?;
            Ok(answer.outcome()?.get().to_owned())
        };
        assert_eq!(outcome("local")?, outcome("http")?, "{tool}");
    }
    // A message with line breaks is still one line for the server.
    let spread = "{\n\"jsonrpc\": \"2.0\",\r\n\"id\": 5, \"method\": \"tools/call\",\n\"params\": {\"name\": \"local_echo\", \"arguments\": {\"message\": \"a\"}}}";
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-session-id", &*session.id),
    ];
    let answer = vmcp_e2e::http_client::exchange(gateway.mcp, "POST", "/mcp", &headers, spread.as_bytes())?;
    assert_eq!(answer.tool_text()?, "a");
    assert_eq!(
        answer.header("content-type"),
        Some("application/json"),
        "a call without events"
    );
    Ok(())
}

#[test]
fn progress_and_server_requests_reach_the_caller() -> anyhow::Result<()> {
    let gateway = test_server()?.start()?;
    let able = json!({"elicitation": {}, "sampling": {}, "roots": {}});
    let session = Session::open_with(gateway.mcp, "2025-11-25", &able)?;
    let steps = json!({"steps": 3, "ms": 10});
    let mut call = Stream::call(gateway.mcp, &session, &json!(1), "local_stream_progress", &steps)?;
    for step in 1..=3 {
        let (_, message) = call.await_method("notifications/progress")?;
        assert_eq!(
            message["params"]["progress"].as_f64(),
            Some(f64::from(step)),
            "{message}"
        );
        assert_eq!(message["params"]["progressToken"], "of 1", "{message}");
    }
    assert_eq!(call.message()?["result"]["content"][0]["text"], "3 steps");

    for (tool, arguments, method, result) in [
        (
            "local_test_elicitation",
            json!({"message": "who?"}),
            "elicitation/create",
            json!({"action": "decline"}),
        ),
        (
            "local_test_sampling",
            json!({"prompt": "x"}),
            "sampling/createMessage",
            json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "said"}}),
        ),
        ("local_list_roots", json!({}), "roots/list", json!({"roots": []})),
    ] {
        let mut call = Stream::call(gateway.mcp, &session, &json!(tool), tool, &arguments)?;
        let (_, asked) = call.await_method(method)?;
        let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": result});
        assert_eq!(session.post(gateway.mcp, &answer)?.status, 202);
        let answer = call.message()?;
        assert_eq!(answer["id"], tool, "{answer}");
        assert!(answer["result"]["content"][0]["text"].is_string(), "{answer}");
    }
    Ok(())
}

/// The client's cancellation reaches the server, before and after the first event of the call.
#[test]
fn cancelled_call_ends_at_the_server() -> anyhow::Result<()> {
    let gateway = test_server()?.start()?;
    let session = Session::open(gateway.mcp)?;
    let call = json!({"jsonrpc": "2.0", "id": "slow", "method": "tools/call",
        "params": {"name": "local_sleep", "arguments": {"ms": 60_000}}});
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| session.post(gateway.mcp, &call));
        wait::until("the call runs", LIMIT, || {
            anyhow::ensure!(
                gateway.metric("vmcp_backend_requests_in_flight", "local")? >= 1.0,
                "not yet"
            );
            Ok(())
        })?;
        let cancelled =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "slow"}});
        wait::until("the call ends", LIMIT, || {
            assert_eq!(session.post(gateway.mcp, &cancelled)?.status, 202);
            anyhow::ensure!(
                gateway.metric("vmcp_backend_requests_in_flight", "local")? < 1.0,
                "it runs"
            );
            Ok(())
        })?;
        drop(waiting.join());
        // The server is free for the next call.
        assert_eq!(
            session
                .call(gateway.mcp, "local_echo", &json!({"message": "b"}))?
                .tool_text()?,
            "b"
        );
        Ok(())
    })
}

/// A change of the lists of a shared process reaches the catalog and all clients.
#[test]
fn list_change_of_shared_process_reaches_all() -> anyhow::Result<()> {
    let mut recipe = recipe(&[&server()?, "--stdio", "--toolsets"])?;
    recipe.hot().backends[0].processes = ProcessMode::Shared;
    let gateway = recipe.start()?;
    let (one, other) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    let before = other.names(gateway.mcp, "tools/list")?;
    let mut stream = Stream::get(gateway.mcp, &other, None)?;
    one.call(gateway.mcp, "local_enable_toolset", &json!({"name": "extra"}))?
        .tool_text()?;
    stream.await_method("notifications/tools/list_changed")?;
    let after = other.names(gateway.mcp, "tools/list")?;
    assert_eq!(after.len(), before.len() + 1, "{after:?}");
    Ok(())
}
