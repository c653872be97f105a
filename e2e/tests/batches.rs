//! Batches: several messages in one body, each treated as if it had come alone. Revision 2025-03-26 has them; they are served in every session.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::{self, Answer, Session};
use vmcp_e2e::scripted_server::{Reply, ScriptedServer};
use vmcp_e2e::stream::Stream;

struct Batches {
    fixture: Fixture,
    gateway: Gateway,
    session: Session,
}

impl Batches {
    fn start(fixture_arguments: &[&str]) -> anyhow::Result<Self> {
        let fixture = Fixture::start(fixture_arguments)?;
        let gateway = Recipe::in_memory(&[("fixture", &fixture.url)])?.start()?;
        let session = Session::open_with(gateway.mcp, "2025-03-26", &json!({"sampling": {}}))?;
        Ok(Self {
            fixture,
            gateway,
            session,
        })
    }

    fn post(&self, batch: &Value) -> anyhow::Result<Answer> {
        self.session.post(self.gateway.mcp, batch)
    }

    /// What the fixture was asked to do so far.
    fn calls(&self) -> anyhow::Result<u64> {
        let stats = self.fixture.stats()?;
        Ok(stats.requests.get("tools/call").copied().unwrap_or_default())
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

#[test]
fn whole_answers_come_as_one_array_and_notifications_have_none() -> anyhow::Result<()> {
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
    // What is no request is told under its id, where it has one.
    for id in [json!(4), Value::Null] {
        assert_eq!(of(&answers, &id)["error"]["code"], -32600, "{answers:?}");
    }
    Ok(())
}

/// A batch without requests is accepted and an answer that no backend waits for is notified.
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

/// Streams come as one stream on which backends ask and the answer may come in a batch.
#[test]
fn batch_streams_merge_and_answers_may_come_in_batch() -> anyhow::Result<()> {
    let batches = Batches::start(&[])?;
    let mcp = batches.gateway.mcp;
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

#[test]
fn what_may_not_be_a_batch_is_refused_and_nothing_of_it_is_done() -> anyhow::Result<()> {
    let batches = Batches::start(&[])?;
    let mcp = batches.gateway.mcp;
    let echo = call(1, "fixture_echo", &json!({"message": "hi"}));
    let initialize = request(
        2,
        "initialize",
        &json!({"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}),
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
        let refused = raw::post(mcp, &[], &batch)?;
        assert_eq!(
            (refused.status, refused.error_code()),
            (400, -32600),
            "{}",
            refused.text()
        );
        assert_eq!(refused.header("mcp-session-id"), None);
    }
    let unknown = raw::post(mcp, &[("mcp-session-id", "v1.nothing")], &json!([echo]))?;
    unknown.ensure_session_not_found()?;
    assert_eq!(batches.calls()?, 0);
    assert_eq!(array(&batches.post(&json!([ping(1)]))?)?.len(), 1);
    Ok(())
}

/// The answer to a batch of one `streamed` call, whose answer is a stream with so many bytes, and of 40 `whole` ones with 250 KiB each. The
/// calls have these deadlines in seconds, and the client reads nothing for longer than the first.
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
    let backend = &mut recipe.config.hot.get_or_insert_default().backends[0];
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
    let answer = raw::answer(stream)?;
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

/// What has a deadline of its own and has gone out does not cut what follows it.
#[test]
fn deadline_of_one_part_does_not_end_the_others() -> anyhow::Result<()> {
    read_late(1, &[("streamed", 3), ("whole", 4)])
}

/// What may still last is not cut by the deadline of a stream before it.
#[test]
fn whole_answers_outlast_the_deadline_of_a_stream() -> anyhow::Result<()> {
    read_late(3 * 1024 * 1024, &[("streamed", 4)])
}
