//! For proxies in front of the gateway: idle connections that live longer than the proxy's, and bytes during long calls.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;
use vmcp_crds::config;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;

/// How long an idle connection stays open, up to `limit`.
fn idle_for(gateway: std::net::SocketAddr, limit: Duration) -> anyhow::Result<Option<Duration>> {
    let mut connection = TcpStream::connect(gateway)?;
    let ping = format!("GET /nothing HTTP/1.1\r\nhost: {gateway}\r\n\r\n");
    connection.write_all(ping.as_bytes())?;
    connection.set_read_timeout(Some(limit))?;
    let began = Instant::now();
    let mut buffer = [0; 4096];
    loop {
        match connection.read(&mut buffer) {
            Ok(0) => return Ok(Some(began.elapsed())),
            Ok(_) => {}
            Err(_) => return Ok(None),
        }
    }
}

#[test]
fn idle_connection_closes_after_configured_time() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let mut recipe = Recipe::in_memory(&[("fixture", &test_server.url)])?;
    let limit = Duration::from_secs(5);
    assert_eq!(idle_for(recipe.start()?.mcp, limit)?, None, "75 s is the default");
    recipe.config.listeners.idle_timeout = config::Duration::from_secs(1);
    let idle = idle_for(recipe.start()?.mcp, limit)?;
    assert!(
        idle.is_some_and(|idle| idle >= Duration::from_millis(900)),
        "{idle:?}"
    );
    Ok(())
}

/// A slow call is answered as a stream where that is configured.
#[test]
fn slow_call_becomes_stream_if_configured() -> anyhow::Result<()> {
    let test_server = TestServer::start(&["--json-response"])?;
    let mut recipe = Recipe::in_memory(&[("fixture", &test_server.url)])?;
    let sleep = |id: u64, ms: u64| {
        let params = json!({"name": "fixture_sleep", "arguments": {"ms": ms}});
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
    };
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let answer = session.post(gateway.mcp, &sleep(1, 1500))?;
    assert_eq!(
        answer.header("content-type"),
        Some("application/json"),
        "without the option"
    );

    if let Some(hot) = &mut recipe.config.hot {
        hot.stream_calls_after = Some(config::Duration::from_millis(500));
    }
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let mut stream = Stream::post(gateway.mcp, &session, &sleep(2, 3000))?;
    assert_eq!((stream.status, &*stream.content_type), (200, "text/event-stream"));
    let (_, message) = stream.next_message()?;
    assert_eq!(message["id"], 2, "{message}");
    assert!(message["result"]["content"].is_array(), "{message}");
    assert_eq!(stream.next_event()?, None, "the answer is the end");
    // Fast responses and other methods keep their framing, and so does a client that accepts no streams.
    for message in [
        sleep(3, 1),
        json!({"jsonrpc": "2.0", "id": 3, "method": "tools/list"}),
    ] {
        let answer = session.post(gateway.mcp, &message)?;
        assert_eq!(
            answer.header("content-type"),
            Some("application/json"),
            "{message}"
        );
    }
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/json"),
        ("mcp-session-id", &*session.id),
    ];
    let slow = sleep(4, 1500).to_string();
    let answer = http_client::exchange(gateway.mcp, "POST", "/mcp", &headers, slow.as_bytes())?;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    // The session ends during the stream: the error has the id of the call.
    let mut stream = Stream::post(gateway.mcp, &session, &sleep(5, 60_000))?;
    assert_eq!(session.delete(gateway.mcp)?.status, 200);
    let (_, message) = stream.next_message()?;
    assert_eq!(
        (&message["id"], &message["error"]["code"]),
        (&json!(5), &json!(-32001))
    );
    Ok(())
}
