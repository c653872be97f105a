//! Responses inside another response that has already begun: on a stream of a slow call, and in a batch. Their deadlines and failures count as
//! those of other responses.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use vmcp_crds::config::Duration as Span;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::Session;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

/// Less than the minute after which a client that does not read is disconnected in any case.
const LIMIT: Duration = Duration::from_secs(20);
const REVISIONS: [&str; 2] = ["2025-11-25", "2025-03-26"];

/// A gateway that turns slow calls into streams, in front of a slow backend.
fn start(deadline: Span, fault: &Value) -> anyhow::Result<(TestServer, Gateway)> {
    let test_server = TestServer::start(&[])?;
    let mut recipe = Recipe::in_memory(&[("a", &test_server.url)])?;
    let hot = recipe.hot();
    hot.stream_calls_after = Some(Span::from_millis(200));
    hot.backends[0].timeouts.call = deadline;
    let gateway = recipe.start()?;
    test_server.admin("POST", "/faults", fault)?;
    Ok((test_server, gateway))
}

/// A call; as a batch in the revision that has those.
fn call(revision: &str, tool: &str, arguments: &Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": "p"}});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    if revision == "2025-03-26" {
        json!([call, {"jsonrpc": "2.0", "id": 2, "method": "ping"}])
    } else {
        call
    }
}

/// A connection on which `message` was sent, and that takes little for its client.
fn send_unread(mcp: SocketAddr, session: &Session, message: &Value) -> anyhow::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let mut stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(8192)?;
        socket.connect(mcp).await?.into_std()
    })?;
    stream.set_nonblocking(false)?;
    let body = message.to_string();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {mcp}\r\ncontent-type: application/json\r\nmcp-session-id: {}\r\n\
         accept: application/json, text/event-stream\r\ncontent-length: {}\r\n\r\n",
        session.id,
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    Ok(stream)
}

/// A stream that its client does not read ends at the deadline of its call.
#[test]
fn unread_late_stream_ends_at_call_deadline() -> anyhow::Result<()> {
    let (_test_server, gateway) = start(
        Span::from_secs(3),
        &json!({"slow_ms": 1000, "only_method": "tools/call"}),
    )?;
    for revision in REVISIONS {
        let session = Session::open_with(gateway.mcp, revision, &json!({}))?;
        // More than the kernel's buffers of a connection take.
        let large = call(revision, "a_big", &json!({"bytes": 4_000_000}));
        let unread = send_unread(gateway.mcp, &session, &large)?;
        wait::until("its answer is on its way", LIMIT, || {
            let buffered = gateway.metric("vmcp_buffered_bytes", "")?;
            anyhow::ensure!(buffered > 3e6, "{buffered}");
            Ok(())
        })?;
        wait::until("nothing of it is left", LIMIT, || {
            let running = gateway.metric("vmcp_requests_in_flight", "")?;
            anyhow::ensure!(running < 0.5, "{running} requests run");
            Ok(())
        })?;
        drop(unread);
    }
    Ok(())
}

/// A call that fails after its response has begun counts as failed in the metrics and in the log.
#[test]
fn late_failure_is_counted_and_logged_as_one() -> anyhow::Result<()> {
    let (_test_server, gateway) = start(
        Span::from_secs(1),
        &json!({"hang": true, "only_method": "tools/call"}),
    )?;
    for (revision, method) in REVISIONS.into_iter().zip(["tools/call", "batch"]) {
        let session = Session::open_with(gateway.mcp, revision, &json!({}))?;
        let hanging = call(revision, "a_echo", &json!({"message": "hi"}));
        let answer = session.post(gateway.mcp, &hanging)?;
        anyhow::ensure!(answer.text().contains("did not answer within"), "{answer:?}");
        let failed = format!("method=\"{method}\",status=\"200\",outcome=\"failed\"");
        wait::until("the failure is counted", LIMIT, || {
            let failed = gateway.metric("vmcp_requests_total", &failed)?;
            anyhow::ensure!(failed > 0.5, "{failed}");
            Ok(())
        })?;
        let log = gateway.log()?;
        let mut lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let told = lines.any(|line| {
            line["message"] == "request served" && line["method"] == method && line["backend"] == "a"
        });
        assert!(told, "{log}");
    }
    Ok(())
}
