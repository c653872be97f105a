//! The basics of the endpoint: lists, errors, unreachable backends and passthrough.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

fn one_test_server() -> anyhow::Result<(TestServer, Recipe, Gateway)> {
    let test_server = TestServer::start(&[])?;
    let recipe = Recipe::new(&[("fixture", &test_server.url)])?;
    let gateway = recipe.start()?;
    Ok((test_server, recipe, gateway))
}

fn request(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": "a-1", "method": method, "params": params})
}

#[test]
fn hanging_backend_delays_neither_initialize_nor_lists() -> anyhow::Result<()> {
    // A server that accepts connections and never responds.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let test_server = TestServer::start(&[])?;
    let url = format!("http://{}/mcp", silent.local_addr()?);
    let recipe = Recipe::new(&[("silent", &url), ("fixture", &test_server.url)])?;
    let gateway = recipe.start()?;
    let started = Instant::now();
    let session = Session::open(gateway.mcp)?;
    let listed = session.post(gateway.mcp, &request("tools/list", &json!({})))?;
    assert!(
        started.elapsed() < Duration::from_millis(500),
        "{:?}",
        started.elapsed()
    );
    let tools = listed.message()?["result"]["tools"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert!(tools.iter().any(|tool| tool["name"] == "fixture_echo"));
    // The other backend is not affected.
    let echo = session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?;
    assert_eq!(echo.tool_text()?, "hi");
    assert_eq!(test_server.initializes("http-client")?, 1);
    Ok(())
}

#[test]
fn initialize_contacts_no_backend() -> anyhow::Result<()> {
    let (test_server, _recipe, gateway) = one_test_server()?;
    for _ in 0..3 {
        Session::open(gateway.mcp)?;
    }
    assert_eq!(test_server.initializes("http-client")?, 0);
    Ok(())
}

/// The negotiated revision is the client's if the gateway supports it, and otherwise the newest.
#[test]
fn revision_is_client_choice_or_newest() -> anyhow::Result<()> {
    let (_test_server, _recipe, gateway) = one_test_server()?;
    for (asked, agreed) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("tomorrow", "2025-11-25"),
    ] {
        let params = json!({"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        let answer = http_client::post(gateway.mcp, &[], &request("initialize", &params))?;
        assert_eq!(answer.message()?["result"]["protocolVersion"], agreed);
        assert_eq!(answer.message()?["id"], "a-1");
    }
    Ok(())
}

/// What is wrong, the headers, the body, and the status and code that answer it.
type Mistake<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, u16, i64);

/// Every mistake of a client has its HTTP status and JSON-RPC code.
#[test]
fn every_client_mistake_has_status_and_code() -> anyhow::Result<()> {
    let (_test_server, _recipe, gateway) = one_test_server()?;
    let session = Session::open(gateway.mcp)?;
    let id = session.id.as_str();
    let json = ("content-type", "application/json");
    let accept = ("accept", "application/json, text/event-stream");
    let ping = request("ping", &json!({})).to_string();
    let big = format!("{{\"x\":\"{}\"}}", "x".repeat(5 << 20));
    let twice = r#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/list"}"#;
    let named_twice = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"fixture_echo","n\u0061me":"fixture_big"}}"#;
    let unknown_tool =
        request("tools/call", &json!({"name": "fixture_nothing", "arguments": {}})).to_string();
    let list = request("tools/list", &json!({})).to_string();
    let no_name = request("tools/call", &json!({})).to_string();
    let other = if id.as_bytes()[40] == b'A' { 'B' } else { 'A' };
    let forged = format!("{}{other}{}", &id[..40], &id[41..]);
    let long = "v1.".repeat(100);
    let sid = "mcp-session-id";
    let cases: &[Mistake<'_>] = &[
        ("not JSON", &[json, accept, (sid, id)], "{nonsense", 400, -32700),
        (
            "cut JSON",
            &[json, accept, (sid, id)],
            "{\"jsonrpc\":",
            400,
            -32700,
        ),
        ("a batch", &[json, accept, (sid, id)], "[]", 400, -32600),
        ("no message", &[json, accept, (sid, id)], "{}", 400, -32600),
        ("a doubled key", &[json, accept, (sid, id)], twice, 400, -32600),
        (
            "a doubled name",
            &[json, accept, (sid, id)],
            named_twice,
            400,
            -32600,
        ),
        (
            "a body that is too large",
            &[json, accept, (sid, id)],
            &big,
            413,
            -32600,
        ),
        ("no content type", &[accept, (sid, id)], &ping, 415, -32600),
        (
            "accepts streams only",
            &[json, ("accept", "text/event-stream"), (sid, id)],
            &ping,
            406,
            -32600,
        ),
        (
            "accepts text only",
            &[json, ("accept", "text/plain"), (sid, id)],
            &ping,
            406,
            -32600,
        ),
        ("no session", &[json, accept], &list, 400, -32600),
        (
            "a forged session",
            &[json, accept, (sid, &forged)],
            &ping,
            404,
            -32001,
        ),
        (
            "a long session",
            &[json, accept, (sid, &long)],
            &ping,
            404,
            -32001,
        ),
        ("an empty session", &[json, accept, (sid, "")], &ping, 404, -32001),
        (
            "an unknown revision",
            &[json, accept, (sid, id), ("mcp-protocol-version", "1900-01-01")],
            &ping,
            400,
            -32600,
        ),
        (
            "an unknown tool",
            &[json, accept, (sid, id)],
            &unknown_tool,
            200,
            -32602,
        ),
        ("no tool", &[json, accept, (sid, id)], &no_name, 200, -32602),
        (
            "an unknown method",
            &[json, accept, (sid, id)],
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/fly"}"#,
            200,
            -32601,
        ),
        (
            "initialize with params that are a text",
            &[json, accept],
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":"x"}"#,
            400,
            -32600,
        ),
    ];
    for (what, headers, body, status, code) in cases {
        let answer = http_client::exchange(gateway.mcp, "POST", "/mcp", headers, body.as_bytes())?;
        assert_eq!(
            (answer.status, answer.error_code()),
            (*status, *code),
            "{what}: {}",
            answer.text()
        );
        if *status == 404 {
            answer.ensure_session_not_found()?;
        }
    }
    assert_eq!(
        http_client::exchange(gateway.mcp, "GET", "/mcp", &[accept], b"")?.status,
        400
    );
    let evil = [json, accept, (sid, id), ("origin", "http://evil.example.com")];
    let foreign = http_client::exchange(gateway.mcp, "POST", "/mcp", &evil, ping.as_bytes())?;
    assert_eq!(
        (foreign.status, foreign.error_code()),
        (403, -32600),
        "{}",
        foreign.text()
    );
    assert_eq!(
        http_client::exchange(gateway.mcp, "PUT", "/mcp", &[json, accept], b"")?.status,
        405
    );
    assert_eq!(
        http_client::exchange(gateway.mcp, "POST", "/", &[json, accept], b"")?.status,
        404
    );
    assert_eq!(
        http_client::exchange(gateway.mcp, "DELETE", "/mcp", &[], b"")?.status,
        400
    );
    // The session still works.
    assert_eq!(
        session
            .post(gateway.mcp, &request("ping", &json!({})))?
            .message()?["result"],
        json!({})
    );
    Ok(())
}

/// The error for an unreachable backend names it and says that a retry is safe.
#[test]
fn unreachable_backend_is_named_with_safe_retry() -> anyhow::Result<()> {
    let (mut test_server, recipe, gateway) = one_test_server()?;
    let session = Session::open(gateway.mcp)?;
    test_server.kill()?;
    let answer = session
        .call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?
        .message()?;
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    let text = answer["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_default();
    assert!(
        text.contains("fixture") && text.contains("cannot be reached") && text.contains("safe"),
        "{text}"
    );
    // It stays listed, and is there again when it comes back.
    test_server.restart()?;
    wait::until("the backend is used again", Duration::from_secs(10), || {
        session
            .call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?
            .tool_text()
    })?;
    assert_eq!(gateway.status(&recipe)?.backends[0].name, "fixture");
    Ok(())
}

/// Responses pass in both framings, also large ones.
#[test]
fn both_framings_pass_and_large_answers_too() -> anyhow::Result<()> {
    for arguments in [&["--json-response"][..], &[]] {
        let test_server = TestServer::start(arguments)?;
        let recipe = Recipe::new(&[("fixture", &test_server.url)])?;
        let gateway = recipe.start()?;
        let session = Session::open(gateway.mcp)?;
        for bytes in [1, 1000, 300_000, 3_000_000] {
            let answer = session.call_as(7, gateway.mcp, "fixture_big", &json!({"bytes": bytes}))?;
            let framing = if arguments.is_empty() {
                "text/event-stream"
            } else {
                "application/json"
            };
            assert_eq!(answer.header("content-type"), Some(framing));
            assert_eq!(answer.tool_text()?.len(), bytes);
            assert_eq!(answer.message()?["id"], 7);
        }
    }
    Ok(())
}

/// An invalid response of a backend becomes an error for the call, and is never passed on.
#[test]
fn invalid_backend_response_fails_its_call() -> anyhow::Result<()> {
    let (test_server, _recipe, gateway) = one_test_server()?;
    let session = Session::open(gateway.mcp)?;
    let echo = || session.call_as(7, gateway.mcp, "fixture_echo", &json!({"message": "hi"}));
    assert_eq!(echo()?.tool_text()?, "hi");
    for fault in [
        "not_json",
        "truncate",
        "wrong_id",
        "wrong_content_type",
        "sse_without_answer",
    ] {
        test_server.admin(
            "POST",
            "/faults",
            &json!({fault: true, "no_event_ids": true, "only_method": "tools/call"}),
        )?;
        let message = echo()?.message()?;
        let is_error = message["result"]["isError"] == true || message["error"]["code"] == -32603;
        assert!(is_error && message["id"] == 7, "{fault}: {message}");
        assert!(
            message.to_string().contains("fixture"),
            "{fault}: the backend is not named: {message}"
        );
        test_server.admin("DELETE", "/faults", &json!({}))?;
        assert_eq!(echo()?.tool_text()?, "hi", "after {fault}");
    }
    Ok(())
}

/// Listed tools are byte for byte those of the backend, except for their names.
#[test]
fn tools_pass_byte_for_byte_but_for_their_names() -> anyhow::Result<()> {
    let (test_server, _recipe, gateway) = one_test_server()?;
    let direct: std::net::SocketAddr = test_server
        .url
        .trim_start_matches("http://")
        .trim_end_matches("/mcp")
        .parse()?;
    let list = request("tools/list", &json!({}));
    let (own, through) = (Session::open(direct)?, Session::open(gateway.mcp)?);
    let mut own = own.post(direct, &list)?.message()?["result"]["tools"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let through = through.post(gateway.mcp, &list)?.message()?["result"]["tools"]
        .as_array()
        .cloned();
    for tool in &mut own {
        tool["name"] = json!(format!("fixture_{}", tool["name"].as_str().unwrap_or_default()));
    }
    own.sort_by_key(|tool| tool["name"].to_string());
    assert_eq!(through, Some(own));
    Ok(())
}

/// Transparent huge pages are off: the kernel needs half a millisecond to clear one, and all calls of a thread wait meanwhile.
#[test]
fn gateway_has_no_transparent_huge_pages() -> anyhow::Result<()> {
    let gateway = Recipe::in_memory(&[])?.start()?;
    assert_eq!(gateway.process_status("THP_enabled")?.as_deref(), Some("0"));
    Ok(())
}
