//! Backends that deviate from the official SDKs in ways that every official client accepts: they work through the gateway, too.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use vmcp_crds::status::ProtocolEra;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::Session;
use vmcp_e2e::scripted_server::{Received, Reply, ScriptedServer, usual};
use vmcp_e2e::wait;

const LIMIT: Duration = Duration::from_secs(15);

fn gateway(server: &ScriptedServer) -> anyhow::Result<(Recipe, Gateway)> {
    let recipe = Recipe::new(&[("odd", &server.url)])?;
    let gateway = recipe.start()?;
    Ok((recipe, gateway))
}

fn echo(gateway: &Gateway, session: &Session) -> anyhow::Result<()> {
    let answer = session.call(gateway.mcp, "odd_echo", &json!({"message": "hi"}))?;
    assert_eq!(answer.tool_text()?, "hi");
    Ok(())
}

/// A session id in the answer to `initialize`, and 404 for every other.
fn with_session(request: &Received, id: &str) -> Option<Reply> {
    match request.method() {
        "initialize" => Some(usual(request).with("mcp-session-id", id)),
        _ if request.header("mcp-session-id") == Some(id) => None,
        _ => Some(Reply::new(404, "text/plain", b"no such session")),
    }
}

/// A 404 with an error for the request's own id is the response: nothing is sent again, and the session stays.
#[test]
fn error_with_request_id_in_404_is_the_response() -> anyhow::Result<()> {
    let server = ScriptedServer::start(|request| {
        with_session(request, "one").or_else(|| match request.method() {
            // Such a response to unknown methods was seen from MCP Toolbox.
            "ping" | "prompts/list" => Some(request.error(404, -32601, "unknown method")),
            "initialize" => None,
            "tools/call" if request.message["params"]["arguments"]["message"] == "bad" => {
                Some(request.error(404, -32000, "no such row"))
            }
            _ => None,
        })
    })?;
    let (_recipe, gateway) = gateway(&server)?;
    let session = Session::open(gateway.mcp)?;
    echo(&gateway, &session)?;
    let answer = session.call(gateway.mcp, "odd_echo", &json!({"message": "bad"}))?;
    let error = &answer.message()?["error"];
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!(-32000), &json!("no such row"))
    );
    echo(&gateway, &session)?;
    assert_eq!(server.messages("tools/call").len(), 3, "each call is sent once");
    assert_eq!(
        server.messages("initialize").len(),
        2,
        "the gateway's own session and the client's"
    );
    Ok(())
}

/// A list request that gets 404 with an error for its id does not hide other lists.
#[test]
fn list_rejected_with_404_keeps_tools() -> anyhow::Result<()> {
    let server = ScriptedServer::start(|request| match request.method() {
        "initialize" => {
            let capabilities = json!({"tools": {}, "prompts": {}, "resources": {}});
            let result = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities,
                "serverInfo": {"name": "s", "version": "1"}});
            Some(request.result(&result).with("mcp-session-id", "one"))
        }
        "prompts/list" | "resources/list" | "resources/templates/list" | "ping" => {
            Some(request.error(404, -32601, "unknown method"))
        }
        _ => None,
    })?;
    let (recipe, gateway) = gateway(&server)?;
    let session = Session::open(gateway.mcp)?;
    echo(&gateway, &session)?;
    let status = gateway.status(&recipe)?;
    assert_eq!(
        (status.backends[0].tools, &status.backends[0].error),
        (1, &None),
        "{status:?}"
    );
    Ok(())
}

/// A lost session is also detected if the server's 404 has the request's id.
#[test]
fn lost_session_with_request_id_in_404_is_reopened() -> anyhow::Result<()> {
    let known: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let sessions = Arc::clone(&known);
    let count = AtomicU64::new(0);
    let server = ScriptedServer::start(move |request| {
        let mut sessions = sessions.lock().unwrap();
        if request.method() == "initialize" {
            let id = count.fetch_add(1, Ordering::Relaxed).to_string();
            sessions.insert(id.clone());
            return Some(usual(request).with("mcp-session-id", &id));
        }
        let id = request.header("mcp-session-id").unwrap_or_default();
        (!sessions.contains(id)).then(|| request.error(404, -32001, "Session not found"))
    })?;
    let (_recipe, gateway) = gateway(&server)?;
    let session = Session::open(gateway.mcp)?;
    echo(&gateway, &session)?;
    known.lock().unwrap().clear();
    echo(&gateway, &session)?;
    Ok(())
}

/// A server that rejects the newest revision, in any of the known ways, gets the newest revision that it supports.
#[test]
fn rejected_revision_is_retried_with_older_one() -> anyhow::Result<()> {
    type Refuse = fn(&Received) -> Reply;
    let with_data: Refuse = |request| {
        let data =
            json!({"supported": ["2024-11-05", "2025-06-18", "1999-01-01"], "requested": "2025-11-25"});
        let error = json!({"code": -32602, "message": "Unsupported protocol version", "data": data});
        Reply::json(
            200,
            &json!({"jsonrpc": "2.0", "id": request.message["id"], "error": error}),
        )
    };
    let with_data_in_400: Refuse = |request| {
        let data = json!({"supported": ["2025-06-18"]});
        let error = json!({"code": -32602, "message": "Unsupported protocol version", "data": data});
        Reply::json(
            400,
            &json!({"jsonrpc": "2.0", "id": request.message["id"], "error": error}),
        )
    };
    let plain: Refuse = |_| Reply::new(400, "text/plain", b"Bad Request: Unsupported protocol version");
    for (refuse, speaks, asked) in [
        (with_data, "2025-06-18", &["2025-11-25", "2025-06-18"][..]),
        (with_data_in_400, "2025-06-18", &["2025-11-25", "2025-06-18"]),
        (plain, "2025-03-26", &["2025-11-25", "2025-06-18", "2025-03-26"]),
    ] {
        let server = ScriptedServer::start(move |request| {
            let is_refused =
                request.method() == "initialize" && request.message["params"]["protocolVersion"] != speaks;
            is_refused.then(|| refuse(request))
        })?;
        let (_recipe, gateway) = gateway(&server)?;
        let session = Session::open(gateway.mcp)?;
        echo(&gateway, &session)?;
        let versions: Vec<Value> = server
            .messages("initialize")
            .iter()
            .map(|message| message["params"]["protocolVersion"].clone())
            .collect();
        assert_eq!(versions[..asked.len()], *asked, "the gateway's own look");
        let named = server
            .received()
            .into_iter()
            .filter(|request| request.method() == "tools/call");
        for request in named {
            assert_eq!(request.header("mcp-protocol-version"), Some(speaks));
        }
    }
    Ok(())
}

/// `/status` says which era a backend speaks as soon as the backend has shown it.
#[test]
fn status_names_the_era_of_a_backend() -> anyhow::Result<()> {
    let is_modern = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let modern = Arc::clone(&is_modern);
    // The TypeScript SDK v2 refuses the legacy era so.
    let server = ScriptedServer::start(move |request| {
        let data = json!({"supported": ["2026-07-28"], "requested": "2025-11-25"});
        let error = json!({"code": -32022, "message": "Unsupported protocol version", "data": data});
        let refusal = json!({"jsonrpc": "2.0", "id": request.message["id"], "error": error});
        modern.load(Ordering::Relaxed).then(|| Reply::json(400, &refusal))
    })?;
    let (recipe, gateway) = gateway(&server)?;
    let silent = Recipe::new(&[("odd", "http://127.0.0.1:1/mcp")])?;
    let has_era = |recipe: &Recipe, gateway: &Gateway, era: Option<ProtocolEra>| {
        let backend = gateway.status(recipe)?.backends.remove(0);
        anyhow::ensure!(
            backend.error.is_some() || era == Some(ProtocolEra::Legacy),
            "no error yet"
        );
        anyhow::ensure!(backend.era == era, "{backend:?}");
        Ok(backend.error.unwrap_or_default())
    };
    let unreached = silent.start()?;
    wait::until("nothing is known", LIMIT, || has_era(&silent, &unreached, None))?;
    let error = wait::until("the backend is modern", LIMIT, || {
        has_era(&recipe, &gateway, Some(ProtocolEra::Modern))
    })?;
    assert!(
        error.starts_with("it supports only protocol revisions without sessions"),
        "{error}"
    );
    is_modern.store(false, Ordering::Relaxed);
    // A client's session asks again at once.
    let session = Session::open(gateway.mcp)?;
    wait::until("the backend is legacy", LIMIT, || {
        echo(&gateway, &session)?;
        has_era(&recipe, &gateway, Some(ProtocolEra::Legacy))
    })?;
    Ok(())
}

/// A server that takes only integer ids of 32 bits is listed, probed and called.
#[test]
fn own_requests_have_small_integer_ids() -> anyhow::Result<()> {
    let server = ScriptedServer::start(|request| {
        let id = &request.message["id"];
        let is_small = id.as_i64().is_some_and(|id| i32::try_from(id).is_ok());
        (!id.is_null() && !is_small).then(|| Reply::new(400, "text/plain", b"id must be an int"))
    })?;
    let mut recipe = Recipe::new(&[("odd", &server.url)])?;
    let hot = recipe.hot();
    hot.backends[0].health.interval = vmcp_crds::config::Duration::from_secs(1);
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    echo(&gateway, &session)?;
    wait::until("it is probed", LIMIT, || {
        anyhow::ensure!(!server.messages("ping").is_empty(), "no ping yet");
        Ok(())
    })?;
    let own = server.messages("tools/list")[0]["id"].as_i64();
    assert!(own.is_some_and(|id| id < 1000), "{own:?}");
    Ok(())
}

/// `bytes` in gzip.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing to memory does not fail; if it did, the gateway would miss the end of the body.
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.unwrap_or_default()
}

/// A response that is compressed without having been asked for is decoded and passed on: small, large, and as events.
#[test]
fn compressed_answers_are_decoded() -> anyhow::Result<()> {
    let server = ScriptedServer::start(|request| {
        let mut reply = usual(request);
        let events = request.message["params"]["arguments"]["message"] == "events";
        if events {
            let body = String::from_utf8_lossy(&reply.body).into_owned();
            reply = Reply::new(200, "text/event-stream", format!("data: {body}\n\n").as_bytes());
        }
        reply.body = gzip(&reply.body);
        Some(reply.with("content-encoding", "gzip"))
    })?;
    let (_recipe, gateway) = gateway(&server)?;
    let session = Session::open(gateway.mcp)?;
    let large = "x".repeat(600_000);
    for text in ["hi", "events", &large] {
        let answer = session.call(gateway.mcp, "odd_echo", &json!({"message": text}))?;
        assert!(answer.tool_text()? == text, "{} bytes", text.len());
        assert_eq!(answer.header("content-encoding"), None);
    }
    Ok(())
}

/// A decompression bomb is rejected, and is never held in memory.
#[test]
fn decompression_bomb_is_refused_by_its_decoded_size() -> anyhow::Result<()> {
    let bomb = gzip(&vec![b' '; 48 << 20]);
    let server = ScriptedServer::start(move |request| {
        let reply = Reply::new(200, "application/json", &bomb).with("content-encoding", "gzip");
        (request.method() == "tools/call").then_some(reply)
    })?;
    let mut recipe = Recipe::new(&[("odd", &server.url)])?;
    let hot = recipe.hot();
    hot.backends[0].max_answer_bytes = 4 << 20;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let before = gateway.peak_memory()?;
    // It is passed on as it comes, and breaks off at the limit.
    let answer = session.call(gateway.mcp, "odd_echo", &json!({}));
    let passed = answer.map_or(0, |answer| answer.body.len());
    assert!(passed <= 4 << 20, "{passed} bytes were passed on");
    let grown = gateway.peak_memory()?.saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    let log = gateway.log()?;
    assert!(log.contains("more than 4194304 bytes"), "{log}");
    Ok(())
}

/// An unknown content encoding is named in the error, and no byte is passed on.
#[test]
fn unknown_content_encoding_is_named() -> anyhow::Result<()> {
    let server = ScriptedServer::start(move |request| {
        (request.method() == "tools/call").then(|| usual(request).with("content-encoding", "compress"))
    })?;
    let (_recipe, gateway) = gateway(&server)?;
    let session = Session::open(gateway.mcp)?;
    let answer = session.call(gateway.mcp, "odd_echo", &json!({"message": "hi"}))?;
    let text = answer.message()?["result"]["content"][0]["text"].to_string();
    assert!(
        text.contains("Content-Encoding") && text.contains("compress"),
        "{}",
        answer.text()
    );
    Ok(())
}

/// A server that has one session for all clients, which the discovery of the gateway uses up, is named with the option that helps.
#[test]
fn server_with_one_session_for_everybody_is_named() -> anyhow::Result<()> {
    let count = AtomicU64::new(0);
    let server = ScriptedServer::start(move |request| {
        if request.method() == "initialize" && count.fetch_add(1, Ordering::Relaxed) > 0 {
            let error = json!({"code": -32600, "message": "Invalid Request: Server already initialized"});
            let body = json!({"jsonrpc": "2.0", "error": error, "id": null});
            return Some(Reply::json(400, &body));
        }
        with_session(request, "one")
    })?;
    let (recipe, gateway) = gateway(&server)?;
    let session = Session::open(gateway.mcp)?;
    let answer = session.call(gateway.mcp, "odd_echo", &json!({"message": "hi"}))?;
    let text = answer.message()?["result"]["content"][0]["text"].to_string();
    assert!(text.contains("one session for all of its clients"), "{text}");
    assert!(text.contains("sharedSession: true"), "{text}");
    let warnings = gateway.status(&recipe)?.warnings;
    let named = |warning: &String| warning.contains("backend odd has one session for all of its clients");
    assert!(warnings.iter().any(named), "{warnings:?}");
    // Asking for older revisions would not help.
    assert_eq!(server.messages("initialize").len(), 2);
    Ok(())
}

/// A balancer with cookie affinity in front of a backend gets the cookie of each upstream session with all of its requests, and only there.
#[test]
fn cookies_go_back_with_their_upstream_session() -> anyhow::Result<()> {
    let count = AtomicU64::new(0);
    let server = ScriptedServer::start(move |request| {
        if request.method() == "initialize" {
            let id = count.fetch_add(1, Ordering::Relaxed).to_string();
            let reply = usual(request).with("mcp-session-id", &id);
            let cookie = format!("lb={id}; Path=/; HttpOnly");
            return Some(
                reply
                    .with("set-cookie", &cookie)
                    .with("set-cookie", "other=1; Path=/other"),
            );
        }
        let id = request.header("mcp-session-id").unwrap_or_default();
        let is_at_its_server = request.header("cookie") == Some(&*format!("lb={id}"));
        (!is_at_its_server).then(|| Reply::new(404, "text/plain", b"another server"))
    })?;
    let (_recipe, gateway) = gateway(&server)?;
    let (one, two) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    for session in [&one, &two, &one, &two] {
        echo(&gateway, session)?;
    }
    assert_eq!(server.messages("initialize").len(), 3, "no session was lost");
    let first = server
        .received()
        .into_iter()
        .find(|request| request.method() == "initialize");
    assert_eq!(
        first.and_then(|request| request.header("cookie").map(str::to_owned)),
        None
    );
    Ok(())
}
