//! The response for a lost session: 404, -32001 and a null id. Every client takes it as the end of its session.

use std::time::Duration;

use serde_json::{Value, json};
use vmcp_e2e::gateway::Gateway;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Answer, Session};
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway in front of one backend.
fn start(server_arguments: &[&str]) -> anyhow::Result<Harness> {
    let builder = Harness::builder().test_server("fixture", server_arguments);
    builder.without_session_keys().start()
}

fn wait_for_calls(server: &TestServer, expected: u64) -> anyhow::Result<()> {
    wait::until("the calls reach the backend", PATIENCE, || {
        let calls = server.calls()?;
        anyhow::ensure!(calls == expected, "{calls}");
        Ok(())
    })
}

fn request(id: &Value, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn sleep(id: &Value) -> Value {
    let params = json!({"name": "fixture_sleep", "arguments": {"ms": 60_000}});
    request(id, "tools/call", &params)
}

fn get(gateway: &Gateway, session: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let mut all = vec![("accept", "text/event-stream"), ("mcp-session-id", session)];
    all.extend_from_slice(headers);
    http_client::exchange(gateway.mcp, "GET", "/mcp", &all, b"")
}

#[test]
fn lost_session_gets_404_and_null_id_on_every_verb() -> anyhow::Result<()> {
    // POST of each kind of message and a batch, GET, also to resume a stream, and DELETE.
    let harness = start(&[])?;
    let gateway = harness.gateway();
    let ended = Session::open(gateway.mcp)?;
    assert_eq!(ended.delete(gateway.mcp)?.status, 200);
    let garbage = "garbage".to_owned();
    for id in [&ended.id, &garbage] {
        let session = Session { id: id.clone() };
        let one = json!(1);
        for message in [
            request(&one, "ping", &json!({})),
            request(&one, "tools/list", &json!({})),
            request(&json!("a"), "tools/call", &json!({"name": "fixture_echo"})),
            request(&one, "logging/setLevel", &json!({"level": "debug"})),
            request(&one, "resources/subscribe", &json!({"uri": "test://x"})),
            request(&one, "nonsense/method", &json!({})),
            json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
            json!({"jsonrpc": "2.0", "id": "vmcp:x", "result": {}}),
            json!([request(&one, "ping", &json!({}))]),
        ] {
            let answer = session.post(gateway.mcp, &message)?;
            answer.ensure_session_not_found()?;
        }
        get(gateway, id, &[])?.ensure_session_not_found()?;
        get(gateway, id, &[("last-event-id", "v1.x")])?.ensure_session_not_found()?;
        session.delete(gateway.mcp)?.ensure_session_not_found()?;
    }
    Ok(())
}

#[test]
fn termination_during_call_gets_404_and_null_id() -> anyhow::Result<()> {
    // Before the response has begun, its status can report it.
    let harness = start(&["--json-response"])?;
    let mcp = harness.gateway().mcp;
    let session = Session::open(mcp)?;
    let calling = session.clone();
    let call = std::thread::spawn(move || calling.post(mcp, &sleep(&json!("a"))));
    wait_for_calls(harness.server(), 1)?;
    assert_eq!(session.delete(mcp)?.status, 200);
    call.join().unwrap()?.ensure_session_not_found()
}

#[test]
fn termination_during_stream_keeps_request_id() -> anyhow::Result<()> {
    // The status has been sent, and the client waits for this id. The next request gets the 404.
    let harness = start(&[])?;
    let mcp = harness.gateway().mcp;
    let session = Session::open(mcp)?;
    let mut stream = Stream::post(mcp, &session, &sleep(&json!("a")))?;
    assert_eq!((stream.status, &*stream.content_type), (200, "text/event-stream"));
    wait_for_calls(harness.server(), 1)?;
    assert_eq!(session.delete(mcp)?.status, 200);
    let last = stream.rest()?;
    assert!(last.contains(r#""id":"a""#) && last.contains("-32001"), "{last}");
    session
        .request(mcp, "ping", &json!({}))?
        .ensure_session_not_found()
}

/// A termination during a buffered batch is answered with 404 and a null id.
#[test]
fn termination_during_batch_gets_404_and_null_id() -> anyhow::Result<()> {
    let harness = start(&["--json-response"])?;
    let mcp = harness.gateway().mcp;
    let session = Session::open_with(mcp, "2025-03-26", &json!({}))?;
    let calling = session.clone();
    let batch = json!([
        request(&json!(1), "ping", &json!({})),
        sleep(&json!(2)),
        sleep(&json!(3))
    ]);
    let call = std::thread::spawn(move || calling.post(mcp, &batch));
    wait_for_calls(harness.server(), 2)?;
    assert_eq!(session.delete(mcp)?.status, 200);
    call.join().unwrap()?.ensure_session_not_found()
}

#[test]
fn termination_during_batch_stream_keeps_request_ids() -> anyhow::Result<()> {
    // Each request of the batch that still runs gets its error: those that stream, and those that have not begun to answer.
    let harness = Harness::builder()
        .test_server("streaming", &[])
        .test_server("whole", &["--json-response"])
        .without_session_keys()
        .start()?;
    let mcp = harness.address();
    let session = Session::open_with(mcp, "2025-03-26", &json!({}))?;
    let call = |id: u64, tool: &str| {
        request(
            &json!(id),
            "tools/call",
            &json!({"name": tool, "arguments": {"ms": 60_000}}),
        )
    };
    let batch = json!([call(1, "streaming_sleep"), call(2, "whole_sleep")]);
    let mut stream = Stream::post(mcp, &session, &batch)?;
    assert_eq!(stream.content_type, "text/event-stream");
    wait_for_calls(&harness.servers[1], 1)?;
    assert_eq!(session.delete(mcp)?.status, 200);
    let mut ids = Vec::new();
    while let Some(event) = stream.next_event()? {
        if let Some(message) = event.message() {
            assert_eq!(message["error"]["code"], -32001, "{message}");
            ids.push(message["id"].as_u64());
        }
    }
    ids.sort_unstable();
    assert_eq!(ids, [Some(1), Some(2)]);
    Ok(())
}

/// Errors other than a lost session have the id of the request.
#[test]
fn every_other_error_keeps_the_request_id() -> anyhow::Result<()> {
    let harness = start(&[])?;
    let gateway = harness.gateway();
    let session = Session::open(gateway.mcp)?;
    let ping = request(&json!("a"), "ping", &json!({}));
    let unknown = ("mcp-protocol-version", "1900-01-01");
    let id = ("mcp-session-id", &*session.id);
    for (what, headers, message, code) in [
        (
            "no session",
            &[][..],
            request(&json!("a"), "tools/list", &json!({})),
            -32600,
        ),
        ("unknown revision", &[id, unknown][..], ping, -32600),
        (
            "unknown method",
            &[id][..],
            request(&json!("a"), "tools/fly", &json!({})),
            -32601,
        ),
        (
            "unknown tool",
            &[id][..],
            request(&json!("a"), "tools/call", &json!({"name": "x"})),
            -32602,
        ),
        (
            "a method that is a number",
            &[id][..],
            json!({"jsonrpc": "2.0", "id": "a", "method": 1}),
            -32600,
        ),
    ] {
        let answer = http_client::post(gateway.mcp, headers, &message)?;
        assert_eq!(answer.error_code(), code, "{what}: {}", answer.text());
        assert_eq!(answer.message()?["id"], "a", "{what}");
    }
    Ok(())
}
