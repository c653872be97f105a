//! No request that a parser of a backend could read differently from the gateway reaches a backend, so filters cannot be evaded.
//!
//! Odd requests go through a real gateway to a server that keeps them byte for byte. Then parsers of several languages read them.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod corpus;

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_crds::config::ConflictStrategy;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::{self, Answer, Session};
use vmcp_e2e::recording_backend::{BackendReply, ReceivedMessage, RecordingBackend};
use vmcp_external::parsers::{self, Parser};
use vmcp_external::requires;

use crate::corpus::{Corpus, Odd, Outcome, Read};

/// The server, and a gateway that denies most of its tools.
fn start(strategy: ConflictStrategy) -> anyhow::Result<(RecordingBackend, Gateway)> {
    let schema = json!({"type": "object"});
    let tool = |name: &str| json!({"name": name, "inputSchema": schema});
    let resource = |uri: &str| json!({"name": uri, "uri": uri});
    let offer = json!({
        "tools": [tool("allowed"), tool("drop_database"), tool("secret_tool")],
        "prompts": [{"name": "ask"}, {"name": "leak"}],
        "resources": [resource("db://main/public"), resource("db://main/secret")],
        "resourceTemplates": [{"name": "all", "uriTemplate": "db://main/{+path}"}],
    });
    let backend = RecordingBackend::start(offer, |_| {
        BackendReply::Result(json!({"content": [], "contents": []}))
    })?;
    let mut recipe = Recipe::new(&[("db", &backend.url)])?;
    let hot = recipe.hot();
    hot.aggregation.strategy = strategy;
    hot.backends[0].tools.deny = vec!["drop_*".to_owned()];
    hot.backends[0].tools.hidden = vec!["secret_tool".to_owned()];
    hot.backends[0].prompts.deny = vec!["leak".to_owned()];
    hot.backends[0].resources.deny = vec!["db://main/secret".to_owned()];
    let gateway = recipe.start()?;
    Ok((backend, gateway))
}

fn post(gateway: &Gateway, session: &Session, body: &[u8]) -> anyhow::Result<Answer> {
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-session-id", &*session.id),
        ("mcp-method", "tools/call"),
        ("mcp-name", "drop_database"),
    ];
    http_client::exchange(gateway.mcp, "POST", "/mcp", &headers, body)
}

/// The requests of clients, without the gateway's own.
fn of_clients(received: Vec<ReceivedMessage>) -> Vec<ReceivedMessage> {
    let own = |message: &ReceivedMessage| {
        let parsed: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        let method = parsed["method"].as_str().unwrap_or_default();
        method == "initialize"
            || method == "notifications/initialized"
            || method == "ping"
            || method.ends_with("/list")
    };
    received.into_iter().filter(|message| !own(message)).collect()
}

/// What `parser` reads in each of `bodies`.
fn read_by(mut parser: Parser, bodies: &[Vec<u8>]) -> anyhow::Result<Vec<Read>> {
    let mut child = parser
        .command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run the parser of {}", parser.name))?;
    let mut input = child.stdin.take().context("no input")?;
    let hex = |body: &Vec<u8>| body.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines: String = bodies.iter().map(|body| hex(body) + "\n").collect();
    let writing = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output()?;
    writing.join().ok().context("the parser took nothing")??;
    ensure!(output.status.success(), "{}: {}", parser.name, output.status);
    let text = String::from_utf8(output.stdout)?;
    let read: Vec<Read> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(
        read.len() == bodies.len(),
        "{} read {} of {}",
        parser.name,
        read.len(),
        bodies.len()
    );
    Ok(read)
}

/// What Rust's `serde_json` reads.
fn read_by_rust(body: &[u8]) -> Read {
    match serde_json::from_slice::<Value>(body) {
        Ok(message) => {
            let params = &message["params"];
            let named = if params["ref"].is_object() {
                &params["ref"]
            } else {
                params
            };
            Read {
                method: message["method"].clone(),
                name: named["name"].clone(),
                uri: named["uri"].clone(),
                id: message["id"].clone(),
                error: None,
            }
        }
        Err(error) => Read {
            error: Some(error.to_string()),
            ..Read::default()
        },
    }
}

/// Whether two parsers read the same. Most parsers round large numbers.
fn agree(one: &Read, other: &Read) -> bool {
    let same_id = one.id == other.id
        || matches!((one.id.as_f64(), other.id.as_f64()), (Some(one), Some(other)) if one == other);
    same_id && (&one.method, &one.name, &one.uri) == (&other.method, &other.name, &other.uri)
}

fn check(prefix: &'static str, strategy: ConflictStrategy) -> anyhow::Result<()> {
    let (backend, gateway) = start(strategy)?;
    let session = Session::open(gateway.mcp)?;
    drop(backend.take_messages());
    let mut wrong = Vec::new();
    let mut arrived: Vec<(String, Vec<u8>, Outcome)> = Vec::new();
    for Odd { what, body, outcome } in Corpus::new(prefix).odd {
        let answer = post(&gateway, &session, &body)?;
        let received = of_clients(backend.take_messages());
        let got = (answer.status, answer.error_code());
        match &outcome {
            Outcome::Refused(status, code) => {
                if got != (*status, *code) || !received.is_empty() {
                    wrong.push(format!(
                        "{what}: expected {status} {code}, got {got:?}; {} arrived",
                        received.len()
                    ));
                }
            }
            Outcome::Passed(_) | Outcome::PassedToSome(_) => {
                if got != (200, 0) || received.len() != 1 {
                    wrong.push(format!(
                        "{what}: {got:?}, {} arrived: {}",
                        received.len(),
                        answer.text()
                    ));
                }
            }
        }
        for message in received {
            if message.head.contains("mcp-name") || message.head.contains("mcp-method") {
                wrong.push(format!("{what}: a header arrived that names a tool"));
            }
            arrived.push((what.clone(), message.body, outcome.clone()));
        }
    }
    let bodies: Vec<_> = arrived.iter().map(|(_, body, _)| body.clone()).collect();
    let mut readings = vec![(
        "Rust",
        bodies.iter().map(|body| read_by_rust(body)).collect::<Vec<_>>(),
    )];
    for parser in parsers::all()? {
        readings.push((parser.name, read_by(parser, &bodies)?));
    }
    for (parser, read) in readings {
        for ((what, _, outcome), read) in arrived.iter().zip(read) {
            let fits = match outcome {
                Outcome::Refused(..) => false,
                Outcome::Passed(expected) => read.error.is_none() && agree(&read, expected),
                Outcome::PassedToSome(expected) => read.error.is_some() || agree(&read, expected),
            };
            if !fits {
                wrong.push(format!("{what}: {parser} read {read:?}"));
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    Ok(())
}

/// For every request of a client, every parser reads the same tool, prompt, resource, method and id as the gateway.
#[requires(parsers)]
#[test]
fn odd_requests_are_read_alike_by_all_parsers() -> anyhow::Result<()> {
    check("db_", ConflictStrategy::Prefix)?;
    check("", ConflictStrategy::None)
}

/// A client that ignores the case of keys would read another result or id than the gateway checked.
#[test]
fn ambiguous_response_becomes_error_naming_key() -> anyhow::Result<()> {
    let offer = json!({"tools": [
        {"name": "twice", "inputSchema": {"type": "object"}},
        {"name": "good", "Name": "drop_database", "inputSchema": {"type": "object"}},
    ]});
    let backend = RecordingBackend::start(offer, |request| {
        let id = &request["id"];
        let result = json!({"content": []});
        BackendReply::Verbatim(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{result},"RE\u017fULT":{result}}}"#
        ))
    })?;
    let recipe = Recipe::new(&[("db", &backend.url)])?;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let answer = session.call(gateway.mcp, "db_twice", &json!({}))?;
    let text = answer.text();
    assert!(
        text.contains("REſULT") && text.contains("can be taken for") && text.contains("isError"),
        "{text}"
    );
    // An item with an ambiguous name is not listed at all.
    assert_eq!(session.names(gateway.mcp, "tools/list")?, ["db_twice"]);
    let faults = serde_json::to_string(&gateway.status(&recipe)?)?;
    assert!(faults.contains("1 tools that cannot be called"), "{faults}");
    Ok(())
}

/// Each message of a batch is checked as a single message.
#[test]
fn ambiguous_message_in_batch_is_rejected_alone() -> anyhow::Result<()> {
    let (backend, gateway) = start(ConflictStrategy::Prefix)?;
    let session = Session::open_with(gateway.mcp, "2025-03-26", &json!({}))?;
    drop(backend.take_messages());
    let good = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"db_allowed"}}"#;
    let bad = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"db_allowed","Name":"drop_database"}}"#;
    let note = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9},"Method":"tools/call"}"#;
    let answer = post(&gateway, &session, format!("[{good},{bad},{note}]").as_bytes())?;
    let answers: Vec<Value> = serde_json::from_slice(&answer.body)?;
    let code = |id: Value| {
        let found = answers.iter().find(|answer| answer["id"] == id);
        found.map(|answer| answer["error"]["code"].clone())
    };
    assert_eq!(code(json!(1)), Some(Value::Null), "{answers:?}");
    assert_eq!(code(json!(2)), Some(json!(-32600)), "{answers:?}");
    assert_eq!(code(Value::Null), Some(json!(-32600)), "{answers:?}");
    let arrived = of_clients(backend.take_messages());
    assert_eq!(arrived.len(), 1, "{arrived:?}");
    Ok(())
}
