//! The answer to a session that is gone: 404, -32001 and an id of null. Every client takes it for the end of its session.

use std::time::Duration;

use serde_json::{Value, json};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::{self, Answer, Session};
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway in front of one backend.
struct World {
    fixture: Fixture,
    gateway: Gateway,
}

impl World {
    fn start(fixture_arguments: &[&str]) -> anyhow::Result<Self> {
        let fixture = Fixture::start(fixture_arguments)?;
        let gateway = Recipe::in_memory(&[("fixture", &fixture.url)])?.start()?;
        Ok(Self { fixture, gateway })
    }

    fn wait_for_calls(&self, expected: u64) -> anyhow::Result<()> {
        wait::until("the calls reach the backend", PATIENCE, || {
            let calls = self.fixture.stats()?.requests.get("tools/call").copied();
            anyhow::ensure!(calls == Some(expected), "{calls:?}");
            Ok(())
        })
    }
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
    raw::exchange(gateway.mcp, "GET", "/mcp", &all, b"")
}

#[test]
fn lost_session_gets_404_and_null_id_on_every_verb() -> anyhow::Result<()> {
    // Requests of each kind, a notification, an answer and a batch, by POST; GET, also to resume a stream; DELETE.
    let World { gateway, .. } = &World::start(&[])?;
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
fn session_end_under_a_call_gets_404_and_null_id() -> anyhow::Result<()> {
    // As long as the answer has not begun, its status says it.
    let world = World::start(&["--json-response"])?;
    let mcp = world.gateway.mcp;
    let session = Session::open(mcp)?;
    let calling = session.clone();
    let call = std::thread::spawn(move || calling.post(mcp, &sleep(&json!("a"))));
    world.wait_for_calls(1)?;
    assert_eq!(session.delete(mcp)?.status, 200);
    call.join().unwrap()?.ensure_session_not_found()
}

#[test]
fn session_end_under_a_stream_keeps_the_id() -> anyhow::Result<()> {
    // The status has been sent, and the client waits for this id. The next request gets the 404.
    let world = World::start(&[])?;
    let mcp = world.gateway.mcp;
    let session = Session::open(mcp)?;
    let mut stream = Stream::post(mcp, &session, &sleep(&json!("a")))?;
    assert_eq!((stream.status, &*stream.content_type), (200, "text/event-stream"));
    world.wait_for_calls(1)?;
    assert_eq!(session.delete(mcp)?.status, 200);
    let last = stream.rest()?;
    assert!(last.contains(r#""id":"a""#) && last.contains("-32001"), "{last}");
    session
        .request(mcp, "ping", &json!({}))?
        .ensure_session_not_found()
}

#[test]
fn session_end_under_a_batch_gets_404_and_null_id() -> anyhow::Result<()> {
    let world = World::start(&["--json-response"])?;
    let mcp = world.gateway.mcp;
    let session = Session::open_with(mcp, "2025-03-26", &json!({}))?;
    let calling = session.clone();
    let batch = json!([
        request(&json!(1), "ping", &json!({})),
        sleep(&json!(2)),
        sleep(&json!(3))
    ]);
    let call = std::thread::spawn(move || calling.post(mcp, &batch));
    world.wait_for_calls(2)?;
    assert_eq!(session.delete(mcp)?.status, 200);
    call.join().unwrap()?.ensure_session_not_found()
}

#[test]
fn session_end_under_a_batch_stream_keeps_the_ids() -> anyhow::Result<()> {
    // Each request of the batch that still runs gets its error: those that stream, and those that have not begun to answer.
    let (streaming, whole) = (Fixture::start(&[])?, Fixture::start(&["--json-response"])?);
    let recipe = Recipe::in_memory(&[("streaming", &streaming.url), ("whole", &whole.url)])?;
    let gateway = recipe.start()?;
    let mcp = gateway.mcp;
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
    wait::until("the call reaches the backend", PATIENCE, || {
        anyhow::ensure!(whole.stats()?.requests.contains_key("tools/call"));
        Ok(())
    })?;
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

#[test]
fn every_other_error_keeps_the_request_id() -> anyhow::Result<()> {
    let World { gateway, .. } = &World::start(&[])?;
    let session = Session::open(gateway.mcp)?;
    let ping = request(&json!("a"), "ping", &json!({}));
    let unknown = ("mcp-protocol-version", "1900-01-01");
    let id = ("mcp-session-id", &*session.id);
    for (what, headers, message, code) in [
        ("no session", &[][..], ping.clone(), -32600),
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
        let answer = raw::post(gateway.mcp, headers, &message)?;
        assert_eq!(answer.error_code(), code, "{what}: {}", answer.text());
        assert_eq!(answer.message()?["id"], "a", "{what}");
    }
    Ok(())
}
