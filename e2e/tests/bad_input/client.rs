//! Mistakes of a client.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_e2e::http_client::{self, Answer, Session};
use vmcp_e2e::stream::Stream;

use crate::gateways::{Gateways, error_of};
use crate::{heads, principal};

/// Makes the mistake, and returns the response.
type Fault = dyn Fn(&Client<'_>) -> anyhow::Result<Answer>;

/// One mistake, and the expected response.
pub(crate) struct Row {
    fault: &'static str,
    status: u16,
    /// 0 if the response is not JSON-RPC.
    code: i64,
    /// A text in the response.
    says: &'static str,
    answer: Box<Fault>,
}

/// The client that makes the mistake, with a session that has to survive it.
pub(crate) struct Client<'a> {
    pub(crate) gateways: &'a Gateways,
    pub(crate) gateway: SocketAddr,
    pub(crate) session: Session,
}

pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");
pub(crate) const ACCEPT: (&str, &str) = ("accept", "application/json, text/event-stream");
pub(crate) const EVENTS: (&str, &str) = ("accept", "text/event-stream");
pub(crate) const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

impl Client<'_> {
    /// A POST with the usual headers and these.
    pub(crate) fn post(&self, more: &[(&str, &str)], body: &[u8]) -> anyhow::Result<Answer> {
        let mut headers = vec![JSON, ACCEPT, ("mcp-session-id", &self.session.id)];
        headers.extend_from_slice(more);
        http_client::exchange(self.gateway, "POST", "/mcp", &headers, body)
    }

    /// A ping with the usual headers, in which `name` has the value `value` or is missing.
    pub(crate) fn ping_with(&self, name: &str, value: Option<&str>) -> anyhow::Result<Answer> {
        let mut headers = vec![JSON, ACCEPT, ("mcp-session-id", &self.session.id)];
        headers.retain(|(other, _)| *other != name);
        headers.extend(value.map(|value| (name, value)));
        http_client::exchange(self.gateway, "POST", "/mcp", &headers, PING.as_bytes())
    }

    pub(crate) fn get(&self, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        http_client::exchange(self.gateway, "GET", "/mcp", headers, b"")
    }

    /// The head of a POST, without the line that ends it.
    pub(crate) fn head(&self) -> String {
        format!(
            "POST /mcp HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: {}\r\naccept: {}\r\nmcp-session-id: {}\r\n",
            self.gateway, JSON.1, ACCEPT.1, self.session.id
        )
    }
}

/// Checks every row with a new session.
pub(crate) fn check_all(gateways: &Gateways) -> anyhow::Result<()> {
    let rows = [
        messages(),
        ids(),
        echoes(),
        params(),
        twice(),
        sessions(),
        principal::rows(),
        heads::headers(),
        heads::doubled(),
        heads::http(),
    ];
    let mut wrong = Vec::new();
    for row in rows.iter().flatten() {
        if let Err(error) = check(gateways, row) {
            wrong.push(format!("{}: {error:#}", row.fault));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn check(gateways: &Gateways, row: &Row) -> anyhow::Result<()> {
    let client = Client {
        gateways,
        gateway: gateways.gateway.mcp,
        session: gateways.open()?,
    };
    let answer = (row.answer)(&client)?;
    let (code, words) = error_of(&answer);
    ensure!(
        (answer.status, code) == (row.status, row.code) && words.contains(row.says),
        "expected {} {} {:?}, and got {} {code} {words:?}",
        row.status,
        row.code,
        row.says,
        answer.status
    );
    if row.code == -32001 {
        answer.ensure_session_not_found()?;
    }
    // The session still works, unless the row ended it.
    if row.fault != ENDED {
        gateways.echo(&client.session, "good", row.fault)?;
        gateways.close(&client.session)?;
    }
    Ok(())
}

/// A row whose mistake is `answer`.
pub(crate) fn row(
    fault: &'static str,
    (status, code, says): (u16, i64, &'static str),
    answer: impl Fn(&Client<'_>) -> anyhow::Result<Answer> + 'static,
) -> Row {
    Row {
        fault,
        status,
        code,
        says,
        answer: Box::new(answer),
    }
}

/// A row that posts `body`.
fn posted(fault: &'static str, expected: (u16, i64, &'static str), body: impl Into<Vec<u8>>) -> Row {
    let body = body.into();
    row(fault, expected, move |client| client.post(&[], &body))
}

fn messages() -> Vec<Row> {
    let deep = |open: &str, close: &str| {
        let nested = format!("{}{}", open.repeat(100_000), close.repeat(100_000));
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":{nested}}}}}"#)
    };
    let large = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":"{}"}}}}"#,
        "x".repeat(10 << 20)
    );
    let not_utf8 = [&PING.as_bytes()[..PING.len() - 1], b",\"x\":\"\xff\"}"].concat();
    vec![
        posted("no JSON", (400, -32700, "not JSON"), "nonsense"),
        posted(
            "half of a message",
            (400, -32700, "not JSON"),
            &PING.as_bytes()[..20],
        ),
        posted("an empty body", (400, -32700, "not JSON"), ""),
        posted("two messages", (400, -32700, "not JSON"), format!("{PING}{PING}")),
        posted("no UTF-8", (400, -32700, "not UTF-8"), not_utf8),
        posted("a number", (400, -32600, "not a JSON-RPC message"), "1"),
        posted("no message", (400, -32600, "\"jsonrpc\""), "{}"),
        posted(
            "another version of JSON-RPC",
            (400, -32600, "\"jsonrpc\" must be \"2.0\""),
            PING.replace("2.0", "1.0"),
        ),
        posted(
            "a method that is a number",
            (400, -32600, "\"method\" must be a string"),
            PING.replace("\"ping\"", "7"),
        ),
        posted(
            "params that are a list",
            (400, -32600, "\"params\" must be an object"),
            PING.replace('}', ",\"params\":[]}"),
        ),
        posted(
            "a method and a result",
            (400, -32600, "either a method or a result"),
            PING.replace('}', ",\"result\":{}}"),
        ),
        posted("an empty batch", (400, -32600, "batch"), "[]"),
        posted(
            "deep lists",
            (400, -32600, "nests deeper than 128 levels"),
            deep("[", "]"),
        ),
        posted(
            "deep objects",
            (400, -32600, "nests deeper than 128 levels"),
            deep("{\"a\":[", "]}"),
        ),
        posted(
            "a body of 10 MiB",
            (413, -32600, "larger than 4194304 bytes"),
            large.clone(),
        ),
        row(
            "a body of 10 MiB whose length is not told",
            (413, -32600, "larger than 4194304 bytes"),
            move |client| {
                let head = format!("{}transfer-encoding: chunked\r\n\r\n", client.head());
                let chunk = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
                http_client::verbatim(client.gateway, format!("{head}{chunk}").as_bytes())
            },
        ),
        posted(
            "a key twice",
            (400, -32600, "duplicate field `method`"),
            PING.replace('}', ",\"method\":\"tools/list\"}"),
        ),
        posted(
            "a key twice, once with an escape",
            (400, -32600, "duplicate field `method`"),
            PING.replace('}', ",\"m\\u0065thod\":\"tools/list\"}"),
        ),
    ]
}

fn ids() -> Vec<Row> {
    let with = |id: &str| PING.replace("\"id\":1", &format!("\"id\":{id}"));
    let rule = (400, -32600, "\"id\" must be a string or an integer");
    vec![
        posted("an id that is null", rule, with("null")),
        posted("an id that is a fraction", rule, with("1.5")),
        posted("an id that is a list", rule, with("[1]")),
        posted("an id that is true", rule, with("true")),
        posted(
            "a very long id",
            rule,
            with(&format!("\"{}\"", "x".repeat(10_000))),
        ),
        posted(
            "an id of ours",
            (400, -32600, "gateway's own"),
            with("\"vmcp:1\""),
        ),
        posted(
            "an id of ours with an escape",
            (400, -32600, "gateway's own"),
            with("\"v\\u006dcp:1\""),
        ),
        posted(
            "an answer to what the gateway did not ask in this session",
            (400, -32600, "none that the gateway gave"),
            r#"{"jsonrpc":"2.0","id":"vmcp:7","result":{}}"#,
        ),
    ]
}

/// Invalid messages whose senders wait for a response: with an unambiguous id, and with an ambiguous one.
fn echoes() -> Vec<Row> {
    let echo = |fault: &'static str, message: &'static str, says: &'static str, id: Value| {
        row(fault, (400, -32600, says), move |client| {
            let answer = client.post(&[], message.as_bytes())?;
            let message = answer.message()?;
            ensure!(message.get("id") == Some(&id), "not the id {id}: {message}");
            Ok(answer)
        })
    };
    vec![
        echo(
            "a number as a method, with an id",
            r#"{"jsonrpc":"2.0","id":"a","method":7}"#,
            "\"method\"",
            json!("a"),
        ),
        echo(
            "no method, with an id",
            r#"{"jsonrpc":"2.0","id":7}"#,
            "result",
            json!(7),
        ),
        echo(
            "no version, with an id",
            r#"{"id":7,"method":"ping"}"#,
            "\"jsonrpc\"",
            json!(7),
        ),
        echo(
            "a list as params, with an id",
            r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":[]}"#,
            "\"params\"",
            json!(7),
        ),
        echo(
            "two methods, with an id",
            r#"{"jsonrpc":"2.0","id":7,"method":"ping","method":"ping"}"#,
            "duplicate field `method`",
            json!(7),
        ),
        echo(
            "two ids",
            r#"{"jsonrpc":"2.0","id":7,"i\u0064":7,"method":"ping"}"#,
            "duplicate field `id`",
            Value::Null,
        ),
        echo(
            "an answer of another version",
            r#"{"jsonrpc":"1.0","id":7,"result":{}}"#,
            "\"jsonrpc\"",
            Value::Null,
        ),
    ]
}

/// Duplicate keys in parameters that the gateway, a filter or a backend reads. The gateway rejects them.
fn twice() -> Vec<Row> {
    const TWICE: [(&str, &str, &str); 16] = [
        (
            "tools/call",
            "name",
            r#""name":"good_echo","n\u0061me":"good_big""#,
        ),
        (
            "tools/call",
            "arguments",
            r#""name":"good_echo","arguments":{},"arguments":{}"#,
        ),
        (
            "tools/call",
            "_meta",
            r#""name":"good_echo","_meta":{},"_m\u0065ta":{}"#,
        ),
        (
            "tools/call",
            "progressToken",
            r#""name":"good_echo","_meta":{"progressToken":1,"progressToken":2}"#,
        ),
        ("prompts/get", "name", r#""name":"good_a","name":"good_b""#),
        (
            "prompts/get",
            "arguments",
            r#""name":"good_a","arguments":{},"\u0061rguments":{}"#,
        ),
        ("resources/read", "uri", r#""uri":"a:b","ur\u0069":"a:c""#),
        ("resources/read", "_meta", r#""uri":"a:b","_meta":{},"_meta":{}"#),
        ("resources/subscribe", "uri", r#""uri":"a:b","uri":"a:c""#),
        ("resources/unsubscribe", "uri", r#""uri":"a:b","uri":"a:c""#),
        ("tools/list", "cursor", r#""cursor":"a","curs\u006fr":"b""#),
        (
            "tools/list",
            "progressToken",
            r#""_meta":{"progressToken":1,"progressToken":1}"#,
        ),
        ("completion/complete", "ref", r#""ref":{},"ref":{}"#),
        (
            "completion/complete",
            "name",
            r#""ref":{"type":"ref/prompt","name":"a","n\u0061me":"b"}"#,
        ),
        ("logging/setLevel", "level", r#""level":"info","level":"debug""#),
        (
            "initialize",
            "protocolVersion",
            r#""protocolVersion":"a","protocolVersion":"b""#,
        ),
    ];
    let mut rows = Vec::new();
    for (method, key, fields) in TWICE {
        rows.push(row(method, (400, -32600, "duplicate field"), move |client| {
            let body = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{{{fields}}}}}"#);
            let answer = client.post(&[], body.as_bytes())?;
            ensure!(answer.text().contains(&format!("`{key}`")), "{key}: {answer:?}");
            ensure!(answer.message()?["id"] == 7, "{key}: {answer:?}");
            Ok(answer)
        }));
    }
    for (method, fields) in [
        ("cancelled", r#""requestId":1,"r\u0065questId":2"#),
        ("progress", r#""progressToken":1,"progressToken":2,"progress":1"#),
    ] {
        rows.push(posted(
            "a notification",
            (400, -32600, "duplicate field"),
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{{{fields}}}}}"#),
        ));
    }
    rows
}

fn params() -> Vec<Row> {
    let request = |method: &str, params: &Value| {
        json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string()
    };
    let none = |method: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#);
    let invalid = |says| (200, -32602, says);
    vec![
        posted("an unknown method", (200, -32601, "tools/fly"), none("tools/fly")),
        posted("a call without params", invalid("name"), none("tools/call")),
        posted(
            "a call without a name",
            invalid("name"),
            request("tools/call", &json!({})),
        ),
        posted(
            "a call of a number",
            invalid("name"),
            request("tools/call", &json!({"name": 7})),
        ),
        posted(
            "a call of an unknown tool",
            invalid("good_nothing"),
            request("tools/call", &json!({"name": "good_nothing"})),
        ),
        posted("a prompt without a name", invalid("name"), none("prompts/get")),
        posted(
            "an unknown prompt",
            invalid("good_nothing"),
            request("prompts/get", &json!({"name": "good_nothing"})),
        ),
        posted("a resource without a URI", invalid("uri"), none("resources/read")),
        posted(
            "an unknown resource",
            (200, -32002, "nobody://knows"),
            request("resources/read", &json!({"uri": "nobody://knows"})),
        ),
        posted(
            "a completion of nothing",
            invalid("ref"),
            none("completion/complete"),
        ),
        posted(
            "an unknown log level",
            invalid("level"),
            request("logging/setLevel", &json!({"level": "loud"})),
        ),
        posted(
            "a subscription to nothing",
            invalid("uri"),
            none("resources/subscribe"),
        ),
        posted(
            "a cursor that is none",
            invalid("cursor"),
            request("tools/list", &json!({"cursor": "AAAA"})),
        ),
        posted(
            "a cursor of another list",
            invalid("cursor"),
            request("prompts/list", &json!({"cursor": "bm90aGluZw"})),
        ),
        posted(
            "a cursor that is a number",
            invalid("cursor"),
            request("tools/list", &json!({"cursor": 7})),
        ),
    ]
}

/// The row whose client ends its own session.
const ENDED: &str = "a session that has ended";

fn sessions() -> Vec<Row> {
    const UNKNOWN: (u16, i64, &str) = (404, -32001, "Session not found");
    let header = "mcp-session-id";
    vec![
        row(
            "no session",
            (400, -32600, "Mcp-Session-Id is missing"),
            move |client| {
                let list = PING.replace("ping", "tools/list");
                http_client::exchange(client.gateway, "POST", "/mcp", &[JSON, ACCEPT], list.as_bytes())
            },
        ),
        row("a session that is garbage", UNKNOWN, move |client| {
            client.ping_with(header, Some("garbage"))
        }),
        row("a session that is empty", UNKNOWN, move |client| {
            client.ping_with(header, Some(""))
        }),
        row("a session that is overlong", UNKNOWN, move |client| {
            client.ping_with(header, Some(&"v1.".repeat(2000)))
        }),
        row("a session that is no ASCII", UNKNOWN, move |client| {
            client.ping_with(header, Some("v1.\u{e9}\u{1F600}"))
        }),
        row("a session that nobody signed", UNKNOWN, move |client| {
            let forged: String = client.session.id.chars().rev().collect();
            client.ping_with(header, Some(&format!("v1.{}", &forged[..forged.len() - 3])))
        }),
        row("a session of another server", UNKNOWN, move |client| {
            let theirs = Session::open(client.gateways.stranger.mcp)?;
            let answer = client.ping_with(header, Some(&theirs.id))?;
            // The other client still has its session.
            let alive = theirs.request(client.gateways.stranger.mcp, "ping", &json!({}))?;
            ensure!(alive.status == 200, "{alive:?}");
            Ok(answer)
        }),
        row(ENDED, UNKNOWN, |client| {
            client.gateways.close(&client.session)?;
            client.post(&[], PING.as_bytes())
        }),
        row("a stream of an unknown session", UNKNOWN, move |client| {
            client.get(&[EVENTS, (header, "garbage")])
        }),
        row(
            "a stream of no session",
            (400, -32600, "Mcp-Session-Id is missing"),
            |client| client.get(&[EVENTS]),
        ),
        row("the end of an unknown session", UNKNOWN, move |client| {
            http_client::exchange(client.gateway, "DELETE", "/mcp", &[(header, "garbage")], b"")
        }),
        row(
            "the end of no session",
            (400, -32600, "Mcp-Session-Id is missing"),
            |client| http_client::exchange(client.gateway, "DELETE", "/mcp", &[], b""),
        ),
        row(
            "a last event that is garbage",
            (400, -32600, "Last-Event-ID"),
            move |client| client.get(&[EVENTS, (header, &client.session.id), ("last-event-id", "garbage")]),
        ),
        row(
            "a last event of another session",
            (400, -32600, "Last-Event-ID"),
            move |client| {
                let other = client.gateways.open()?;
                let mut stream = Stream::get(client.gateway, &other, None)?;
                let event = stream.next_event()?.context("no event")?.id.context("no id")?;
                stream.abandon()?;
                client.gateways.close(&other)?;
                client.get(&[EVENTS, (header, &client.session.id), ("last-event-id", &event)])
            },
        ),
    ]
}
