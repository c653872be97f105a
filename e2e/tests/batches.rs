//! Batches: several messages in one body. Each is treated as a single message. They belong to revision 2025-03-26, and every session may send
//! them.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Answer, Session};
use vmcp_e2e::scripted_server::{Reply, ScriptedServer};
use vmcp_e2e::stream::Stream;

/// A gateway in front of one backend, and a session of a revision with batches.
struct Batches {
    harness: Harness,
    session: Session,
}

impl Batches {
    fn start(server_arguments: &[&str]) -> anyhow::Result<Self> {
        let builder = Harness::builder().test_server("fixture", server_arguments);
        let harness = builder.without_session_keys().start()?;
        let session = Session::open_with(harness.address(), "2025-03-26", &json!({"sampling": {}}))?;
        Ok(Self { harness, session })
    }

    fn post(&self, batch: &Value) -> anyhow::Result<Answer> {
        self.session.post(self.harness.address(), batch)
    }

    fn calls(&self) -> anyhow::Result<u64> {
        self.harness.server().calls()
    }
}

fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn ping(id: u64) -> Value {
    request(id, "ping", &json!({}))
}

fn call(id: u64, tool: &str, arguments: &Value) -> Value {
    request(id, "tools/call", &json!({"name": tool, "arguments": arguments}))
}

/// The answer with the id `id`.
fn of<'a>(answers: &'a [Value], id: &Value) -> &'a Value {
    let found: Vec<_> = answers.iter().filter(|answer| answer["id"] == *id).collect();
    assert_eq!(found.len(), 1, "{id} in {answers:?}");
    found[0]
}

fn array(answer: &Answer) -> anyhow::Result<Vec<Value>> {
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json")),
        "{}",
        answer.text()
    );
    Ok(serde_json::from_slice(&answer.body)?)
}

/// The responses to a batch come as one array. Notifications have no response.
#[test]
fn batch_responses_come_as_one_array() -> anyhow::Result<()> {
    let batches = Batches::start(&["--json-response"])?;
    let batch = json!([
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}},
        ping(1),
        call(2, "fixture_echo", &json!({"message": "hi"})),
        request(3, "tools/fly", &json!({})),
        {"jsonrpc": "2.0", "id": 4},
        5,
        call(6, "fixture_big", &json!({"bytes": 300_000})),
    ]);
    let answers = array(&batches.post(&batch)?)?;
    assert_eq!(answers.len(), 6, "{answers:?}");
    assert_eq!(of(&answers, &json!(1))["result"], json!({}));
    assert_eq!(of(&answers, &json!(2))["result"]["content"][0]["text"], "hi");
    assert_eq!(of(&answers, &json!(3))["error"]["code"], -32601);
    let big = of(&answers, &json!(6))["result"]["content"][0]["text"].as_str();
    assert_eq!(big.map(str::len), Some(300_000));
    // An invalid request gets an error with its id, if it has one.
    for id in [json!(4), Value::Null] {
        assert_eq!(of(&answers, &id)["error"]["code"], -32600, "{answers:?}");
    }
    Ok(())
}

/// A batch without requests is accepted. A response that no backend waits for is an error.
#[test]
fn batch_without_requests_is_accepted() -> anyhow::Result<()> {
    let batches = Batches::start(&[])?;
    let cancelled =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}});
    let accepted = batches.post(&json!([cancelled, cancelled]))?;
    assert_eq!((accepted.status, accepted.body.len()), (202, 0));
    let unwanted = json!({"jsonrpc": "2.0", "id": "vmcp:nothing", "result": {}});
    let refused = batches.post(&json!([cancelled, unwanted]))?;
    assert_eq!((refused.status, refused.error_code()), (400, -32600));
    let answers = array(&batches.post(&json!([unwanted, ping(1)]))?)?;
    assert_eq!(of(&answers, &json!(1))["result"], json!({}));
    assert_eq!(of(&answers, &Value::Null)["error"]["code"], -32600);
    Ok(())
}

/// The streams of a batch are merged into one. Server requests arrive on it, and the client may respond in a batch.
#[test]
fn batch_streams_merge_and_answers_may_come_in_batch() -> anyhow::Result<()> {
    let batches = Batches::start(&[])?;
    let mcp = batches.harness.address();
    let batch = json!([
        ping(1),
        call(2, "fixture_test_sampling", &json!({"prompt": "what?"})),
        call(3, "fixture_echo", &json!({"message": "hi"})),
        // The same id again: both are served.
        call(2, "fixture_echo", &json!({"message": "again"})),
    ]);
    let mut stream = Stream::post(mcp, &batches.session, &batch)?;
    assert_eq!(stream.content_type, "text/event-stream");
    let mut answers = Vec::new();
    while let Some(event) = stream.next_event()? {
        assert_eq!(event.id, None, "{event:?}");
        let Some(message) = event.message() else { continue };
        if message["method"] == "sampling/createMessage" {
            let sampled =
                json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "that"}});
            let answer = json!([{"jsonrpc": "2.0", "id": message["id"], "result": sampled}]);
            assert_eq!(batches.post(&answer)?.status, 202);
        } else if message["method"].is_null() {
            answers.push(message);
        }
    }
    assert_eq!(answers.len(), 4, "{answers:?}");
    assert_eq!(of(&answers, &json!(1))["result"], json!({}));
    assert_eq!(of(&answers, &json!(3))["result"]["content"][0]["text"], "hi");
    let of_two = answers.iter().filter(|answer| answer["id"] == 2);
    let of_two: String = of_two
        .map(|answer| answer["result"]["content"].to_string())
        .collect();
    assert!(of_two.contains("that") && of_two.contains("again"), "{answers:?}");
    Ok(())
}

/// An invalid batch is rejected as a whole, and nothing of it is executed.
#[test]
fn invalid_batch_is_rejected_unexecuted() -> anyhow::Result<()> {
    let batches = Batches::start(&[])?;
    let mcp = batches.harness.address();
    let echo = call(1, "fixture_echo", &json!({"message": "hi"}));
    let initialize = request(
        2,
        "initialize",
        &json!({"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "http-client", "version": "1"}}),
    );
    let many: Vec<_> = (0..101).map(ping).collect();
    for (what, batch) in [
        ("empty", json!([])),
        ("many", json!(many)),
        ("with initialize", json!([echo, initialize])),
    ] {
        let refused = batches.post(&batch)?;
        assert_eq!(
            (refused.status, refused.error_code()),
            (400, -32600),
            "{what}: {}",
            refused.text()
        );
    }
    for revision in ["2024-11-05", "2025-06-18", "2025-11-25"] {
        let session = Session::open_with(mcp, revision, &json!({}))?;
        let served = session.post(mcp, &json!([ping(1), ping(2)]))?;
        assert_eq!(array(&served)?.len(), 2, "{revision}");
    }
    for batch in [json!([initialize]), json!([echo])] {
        let refused = http_client::post(mcp, &[], &batch)?;
        assert_eq!(
            (refused.status, refused.error_code()),
            (400, -32600),
            "{}",
            refused.text()
        );
        assert_eq!(refused.header("mcp-session-id"), None);
    }
    let unknown = http_client::post(mcp, &[("mcp-session-id", "v1.nothing")], &json!([echo]))?;
    unknown.ensure_session_not_found()?;
    assert_eq!(batches.calls()?, 0);
    assert_eq!(array(&batches.post(&json!([ping(1)]))?)?.len(), 1);
    Ok(())
}

/// Posts a batch of one `streamed` call, whose response is a stream of `streamed_bytes`, and of 40 `whole` calls with 250 KiB each. The calls
/// have these deadlines in seconds. The client does not read for longer than the first deadline.
fn read_late(streamed_bytes: usize, deadlines: &[(&str, u64)]) -> anyhow::Result<()> {
    const CALLS: u64 = 40;
    let server = ScriptedServer::start(move |request| {
        let result = |bytes| json!({"content": [{"type": "text", "text": "y".repeat(bytes)}]});
        match (request.method(), request.name()) {
            ("tools/list", _) => {
                let tool = |name| json!({"name": name, "inputSchema": {"type": "object"}});
                Some(request.result(&json!({"tools": [tool("streamed"), tool("whole")]})))
            }
            ("tools/call", "whole") => Some(request.result(&result(250 * 1024))),
            ("tools/call", _) => {
                let result = result(streamed_bytes);
                let message = json!({"jsonrpc": "2.0", "id": request.message["id"], "result": result});
                let event = format!("event: message\ndata: {message}\n\n");
                Some(Reply::new(200, "text/event-stream", event.as_bytes()))
            }
            _ => None,
        }
    })?;
    let mut recipe = Recipe::in_memory(&[("a", &server.url)])?;
    let backend = &mut recipe.hot().backends[0];
    for (tool, seconds) in deadlines {
        let deadline = vmcp_crds::config::Duration::from_secs(*seconds);
        backend.tools.deadlines.insert((*tool).to_owned(), deadline);
    }
    let gateway = recipe.start()?;
    let session = Session::open_with(gateway.mcp, "2025-03-26", &json!({}))?;
    let whole = (1..=CALLS).map(|id| call(id, "a_whole", &json!({})));
    let batch: Vec<_> = [call(0, "a_streamed", &json!({}))]
        .into_iter()
        .chain(whole)
        .collect();
    let body = json!(batch).to_string();
    let mut stream = TcpStream::connect(gateway.mcp)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\nmcp-session-id: {}\r\n\
         accept: application/json, text/event-stream\r\ncontent-length: {}\r\n\r\n",
        gateway.mcp,
        session.id,
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    // The client is busy with something else.
    std::thread::sleep(Duration::from_secs(8));
    let answer = http_client::answer(stream)?;
    let text = answer.text();
    let events: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    for id in 0..=CALLS {
        let id = format!("\"id\":{id}");
        let is_of = |event: &&&str| event.contains(&format!("{id},")) || event.contains(&format!("{id}}}"));
        let found = events.iter().filter(is_of).count();
        anyhow::ensure!(found == 1, "{id} in {} bytes: {found}", text.len());
    }
    Ok(())
}

/// The deadline of a response that is already sent does not cut the responses after it.
#[test]
fn deadline_of_one_request_spares_rest_of_batch() -> anyhow::Result<()> {
    read_late(1, &[("streamed", 3), ("whole", 4)])
}

/// The deadline of a stream does not cut responses with later deadlines.
#[test]
fn buffered_responses_outlast_deadline_of_stream() -> anyhow::Result<()> {
    read_late(3 * 1024 * 1024, &[("streamed", 4)])
}
