//! Requests that deviate from the specification and are served, because the servers of the official SDKs serve them, too.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::recorder::Recorder;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);
const JSON: (&str, &str) = ("content-type", "application/json");

/// A gateway in front of one backend, and a recorder of what the gateway sends to the backend.
struct RecordedBackend {
    server: TestServer,
    recorder: Recorder,
    harness: Harness,
    session: Session,
}

impl RecordedBackend {
    fn start(server_arguments: &[&str]) -> anyhow::Result<Self> {
        let server = TestServer::start(server_arguments)?;
        let recorder = Recorder::start(server.address())?;
        let url = format!("http://{}/mcp", recorder.address);
        let harness = Harness::builder()
            .backend("fixture", &url)
            .without_session_keys()
            .start()?;
        let session = Session::open(harness.address())?;
        Ok(Self {
            server,
            recorder,
            harness,
            session,
        })
    }

    fn post(&self, path: &str, accept: Option<&str>, message: &Value) -> anyhow::Result<http_client::Answer> {
        let mut headers = vec![JSON, ("mcp-session-id", &*self.session.id)];
        headers.extend(accept.map(|accept| ("accept", accept)));
        http_client::exchange(
            self.harness.address(),
            "POST",
            path,
            &headers,
            message.to_string().as_bytes(),
        )
    }

    fn wait_for_calls(&self, expected: u64) -> anyhow::Result<()> {
        wait::until("the calls reach the backend", PATIENCE, || {
            let calls = self.server.calls()?;
            anyhow::ensure!(calls >= expected, "{calls}");
            Ok(())
        })
    }
}

fn call(id: u64, tool: &str, arguments: &Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}

/// The endpoint's path may end with a slash.
#[test]
fn trailing_slash_is_served() -> anyhow::Result<()> {
    let backend = RecordedBackend::start(&[])?;
    let accept = Some("application/json, text/event-stream");
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    assert_eq!(
        backend.post("/mcp/", accept, &ping)?.message()?["result"],
        json!({})
    );
    let id = ("mcp-session-id", &*backend.session.id);
    let ended = http_client::exchange(backend.harness.address(), "DELETE", "/mcp/", &[id], b"")?;
    assert_eq!(ended.status, 200);
    for other in ["/mcp//", "/mcp/x", "/"] {
        assert_eq!(backend.post(other, accept, &ping)?.status, 404, "{other}");
    }
    Ok(())
}

#[test]
fn client_accepting_only_json_gets_json() -> anyhow::Result<()> {
    // Also where the backend answers with a stream, and in whichever way the header leaves it open.
    for arguments in [&["--json-response"][..], &[]] {
        let backend = RecordedBackend::start(arguments)?;
        for accept in [Some("application/json"), Some("application/*"), Some("*/*"), None] {
            let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
            let answer = backend.post("/mcp", accept, &ping)?;
            assert_eq!(answer.message()?["result"], json!({}), "{accept:?} {answer:?}");
            for tool in ["fixture_echo", "fixture_test_tool_with_logging"] {
                let answer = backend.post("/mcp", accept, &call(2, tool, &json!({"message": "hi"})))?;
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

/// Parameters that are null are treated as absent, and are not forwarded.
#[test]
fn null_params_are_treated_as_absent() -> anyhow::Result<()> {
    let backend = RecordedBackend::start(&[])?;
    let mcp = backend.harness.address();
    backend
        .session
        .call(mcp, "fixture_echo", &json!({"message": ""}))?;
    for method in ["ping", "tools/list", "resources/templates/list"] {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": null});
        let answer = backend.session.post(mcp, &request)?;
        assert!(
            answer.message()?["result"].is_object(),
            "{method}: {}",
            answer.text()
        );
    }
    for method in ["notifications/initialized", "notifications/roots/list_changed"] {
        let notification = json!({"jsonrpc": "2.0", "method": method, "params": null});
        assert_eq!(backend.session.post(mcp, &notification)?.status, 202, "{method}");
    }
    wait::until("the backend is told", PATIENCE, || {
        anyhow::ensure!(backend.recorder.said().contains("roots/list_changed"));
        Ok(())
    })?;
    assert!(
        !backend.recorder.said().contains("null"),
        "{}",
        backend.recorder.said()
    );
    Ok(())
}

#[test]
fn requests_with_one_id_are_all_served() -> anyhow::Result<()> {
    // Some clients always send the id 1: each request gets its own response with that id, and the backend sees different ids.
    for arguments in [&["--json-response"][..], &[]] {
        let backend = RecordedBackend::start(arguments)?;
        let (mcp, session) = (backend.harness.address(), &backend.session);
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| session.post(mcp, &call(1, "fixture_sleep", &json!({"ms": 3000}))));
            backend.wait_for_calls(1)?;
            for (message, tool) in [("first", "fixture_echo"), ("second", "fixture_echo")] {
                let answer = session.post(mcp, &call(1, tool, &json!({"message": message})))?;
                assert_eq!(
                    (&answer.message()?["id"], answer.tool_text()?.as_str()),
                    (&json!(1), message)
                );
            }
            // Larger than the part that is buffered for checks.
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
        let said = backend.recorder.said();
        assert_eq!(
            said.matches(r#""id":1,"jsonrpc":"2.0","method":"tools/call""#)
                .count(),
            1,
            "{said}"
        );
    }
    Ok(())
}

/// A cancellation for an id of two running requests is ignored. It works once only one of them runs.
#[test]
fn shared_id_is_cancelled_once_it_is_alone() -> anyhow::Result<()> {
    let backend = RecordedBackend::start(&[])?;
    let (mcp, session) = (backend.harness.address(), &backend.session);
    let first = Stream::post(mcp, session, &call(1, "fixture_sleep", &json!({"ms": 2000})))?;
    backend.wait_for_calls(1)?;
    let second = Stream::post(mcp, session, &call(1, "fixture_sleep", &json!({"ms": 60_000})))?;
    backend.wait_for_calls(2)?;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    assert_eq!(session.post(mcp, &cancel)?.status, 202);
    let answer = { first }.rest()?;
    assert!(
        answer.contains("result"),
        "it is unknown which one is meant: {answer}"
    );
    let began = Instant::now();
    wait::until("the cancellation arrives", PATIENCE, || {
        assert_eq!(session.post(mcp, &cancel)?.status, 202);
        anyhow::ensure!(backend.server.stats()?.cancelled > 0, "not yet");
        Ok(())
    })?;
    assert!(began.elapsed() < PATIENCE);
    drop(second);
    Ok(())
}

#[test]
fn task_is_removed_from_forwarded_call() -> anyhow::Result<()> {
    // A backend would create a task that no client can fetch.
    let backend = RecordedBackend::start(&[])?;
    let mut call = call(1, "fixture_echo", &json!({"message": "hi"}));
    call["params"]["task"] = json!({"ttl": 60_000});
    let answer = backend.session.post(backend.harness.address(), &call)?;
    assert_eq!(answer.tool_text()?, "hi");
    let said = backend.recorder.said();
    assert!(said.contains("\"echo\"") && !said.contains("\"task\""), "{said}");
    Ok(())
}
