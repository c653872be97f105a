//! What clients send that is not quite what the specification asks for, and is served: the official SDKs' servers serve it, too.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::{self, Session};
use vmcp_e2e::recorder::Recorder;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);
const JSON: (&str, &str) = ("content-type", "application/json");

/// A gateway in front of one backend, and what it says to it.
struct World {
    fixture: Fixture,
    recorder: Recorder,
    gateway: Gateway,
    session: Session,
}

impl World {
    fn start(fixture_arguments: &[&str]) -> anyhow::Result<Self> {
        let fixture = Fixture::start(fixture_arguments)?;
        let address = fixture.url.trim_start_matches("http://").trim_end_matches("/mcp");
        let recorder = Recorder::start(address.parse()?)?;
        let url = format!("http://{}/mcp", recorder.address);
        let gateway = Recipe::in_memory(&[("fixture", &url)])?.start()?;
        let session = Session::open(gateway.mcp)?;
        Ok(Self {
            fixture,
            recorder,
            gateway,
            session,
        })
    }

    fn post(&self, path: &str, accept: Option<&str>, message: &Value) -> anyhow::Result<raw::Answer> {
        let mut headers = vec![JSON, ("mcp-session-id", &*self.session.id)];
        headers.extend(accept.map(|accept| ("accept", accept)));
        raw::exchange(
            self.gateway.mcp,
            "POST",
            path,
            &headers,
            message.to_string().as_bytes(),
        )
    }

    fn wait_for_calls(&self, expected: u64) -> anyhow::Result<()> {
        wait::until("the calls reach the backend", PATIENCE, || {
            let calls = self.fixture.stats()?.requests.get("tools/call").copied();
            anyhow::ensure!(calls >= Some(expected), "{calls:?}");
            Ok(())
        })
    }
}

fn call(id: u64, tool: &str, arguments: &Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}

#[test]
fn slash_behind_the_path_is_served() -> anyhow::Result<()> {
    let world = World::start(&[])?;
    let accept = Some("application/json, text/event-stream");
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    assert_eq!(
        world.post("/mcp/", accept, &ping)?.message()?["result"],
        json!({})
    );
    let id = ("mcp-session-id", &*world.session.id);
    let ended = raw::exchange(world.gateway.mcp, "DELETE", "/mcp/", &[id], b"")?;
    assert_eq!(ended.status, 200);
    for other in ["/mcp//", "/mcp/x", "/"] {
        assert_eq!(world.post(other, accept, &ping)?.status, 404, "{other}");
    }
    Ok(())
}

#[test]
fn client_that_accepts_json_alone_gets_json() -> anyhow::Result<()> {
    // Also where the backend answers with a stream, and in whichever way the header leaves it open.
    for arguments in [&["--json-response"][..], &[]] {
        let world = World::start(arguments)?;
        for accept in [Some("application/json"), Some("application/*"), Some("*/*"), None] {
            let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
            let answer = world.post("/mcp", accept, &ping)?;
            assert_eq!(answer.message()?["result"], json!({}), "{accept:?} {answer:?}");
            for tool in ["fixture_echo", "fixture_test_tool_with_logging"] {
                let answer = world.post("/mcp", accept, &call(2, tool, &json!({"message": "hi"})))?;
                let message = answer.message()?;
                assert_eq!(
                    (answer.status, &message["id"]),
                    (200, &json!(2)),
                    "{accept:?} {message}"
                );
                assert!(message["result"]["content"].is_array(), "{accept:?} {message}");
                if accept.is_some_and(|accept| accept.starts_with("application")) {
                    assert_eq!(answer.header("content-type"), Some("application/json"));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn params_that_are_null_are_none_and_go_nowhere() -> anyhow::Result<()> {
    let world = World::start(&[])?;
    let mcp = world.gateway.mcp;
    world.session.call(mcp, "fixture_echo", &json!({"message": ""}))?;
    for method in ["ping", "tools/list", "resources/templates/list"] {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": null});
        let answer = world.session.post(mcp, &request)?;
        assert!(
            answer.message()?["result"].is_object(),
            "{method}: {}",
            answer.text()
        );
    }
    for method in ["notifications/initialized", "notifications/roots/list_changed"] {
        let notification = json!({"jsonrpc": "2.0", "method": method, "params": null});
        assert_eq!(world.session.post(mcp, &notification)?.status, 202, "{method}");
    }
    wait::until("the backend is told", PATIENCE, || {
        anyhow::ensure!(world.recorder.said().contains("roots/list_changed"));
        Ok(())
    })?;
    assert!(
        !world.recorder.said().contains("null"),
        "{}",
        world.recorder.said()
    );
    Ok(())
}

#[test]
fn requests_with_one_id_are_all_served() -> anyhow::Result<()> {
    // As of clients that always send 1: each gets its own answer, under the id that it sent, and the backend sees different ids.
    for arguments in [&["--json-response"][..], &[]] {
        let world = World::start(arguments)?;
        let (mcp, session) = (world.gateway.mcp, &world.session);
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| session.post(mcp, &call(1, "fixture_sleep", &json!({"ms": 3000}))));
            world.wait_for_calls(1)?;
            for (message, tool) in [("first", "fixture_echo"), ("second", "fixture_echo")] {
                let answer = session.post(mcp, &call(1, tool, &json!({"message": message})))?;
                assert_eq!(
                    (&answer.message()?["id"], answer.tool_text()?.as_str()),
                    (&json!(1), message)
                );
            }
            // Larger than what is checked before it is passed on.
            let big = session.post(mcp, &call(1, "fixture_big", &json!({"bytes": 400_000})))?;
            assert_eq!(
                (&big.message()?["id"], big.tool_text()?.len()),
                (&json!(1), 400_000)
            );
            let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
            assert_eq!(session.post(mcp, &ping)?.message()?["result"], json!({}));
            assert!(!slow.is_finished(), "the slow one ran all the time");
            let answer = slow.join().unwrap()?;
            assert_eq!(answer.message()?["id"], 1);
            answer.tool_text()
        })?;
        let said = world.recorder.said();
        assert_eq!(
            said.matches(r#""id":1,"jsonrpc":"2.0","method":"tools/call""#)
                .count(),
            1,
            "{said}"
        );
    }
    Ok(())
}

#[test]
fn shared_id_is_cancelled_once_it_is_alone() -> anyhow::Result<()> {
    let world = World::start(&[])?;
    let (mcp, session) = (world.gateway.mcp, &world.session);
    let first = Stream::post(mcp, session, &call(1, "fixture_sleep", &json!({"ms": 2000})))?;
    world.wait_for_calls(1)?;
    let second = Stream::post(mcp, session, &call(1, "fixture_sleep", &json!({"ms": 60_000})))?;
    world.wait_for_calls(2)?;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    assert_eq!(session.post(mcp, &cancel)?.status, 202);
    let answer = { first }.rest()?;
    assert!(
        answer.contains("result"),
        "nobody knows which one is meant: {answer}"
    );
    let began = Instant::now();
    wait::until("the cancellation arrives", PATIENCE, || {
        assert_eq!(session.post(mcp, &cancel)?.status, 202);
        anyhow::ensure!(world.fixture.stats()?.cancelled > 0, "not yet");
        Ok(())
    })?;
    assert!(began.elapsed() < PATIENCE);
    drop(second);
    Ok(())
}

#[test]
fn task_is_left_out_of_what_is_sent_on() -> anyhow::Result<()> {
    // A backend would make a task that nobody can fetch.
    let world = World::start(&[])?;
    let mut call = call(1, "fixture_echo", &json!({"message": "hi"}));
    call["params"]["task"] = json!({"ttl": 60_000});
    let answer = world.session.post(world.gateway.mcp, &call)?;
    assert_eq!(answer.tool_text()?, "hi");
    let said = world.recorder.said();
    assert!(said.contains("\"echo\"") && !said.contains("\"task\""), "{said}");
    Ok(())
}
