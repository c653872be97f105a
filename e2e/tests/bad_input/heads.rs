//! Mistakes of a client before the body: in headers, and in HTTP itself.

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};

use anyhow::ensure;
use serde_json::Value;
use vmcp_e2e::http_client;

use crate::client::{ACCEPT, Client, JSON, PING, Row, row};

pub(crate) fn headers() -> Vec<Row> {
    let accept = (406, -32600, "Accept must list");
    vec![
        row("an answer in text only", accept, |client| {
            client.ping_with("accept", Some("text/plain"))
        }),
        row("an answer in events only", accept, |client| {
            client.ping_with("accept", Some("text/event-stream"))
        }),
        row("a stream in JSON", accept, |client| {
            client.get(&[
                ("accept", "application/json"),
                ("mcp-session-id", &client.session.id),
            ])
        }),
        row("no content type", (415, -32600, "Content-Type"), |client| {
            client.ping_with("content-type", None)
        }),
        row(
            "the content type of a form",
            (415, -32600, "Content-Type"),
            |client| client.ping_with("content-type", Some("application/x-www-form-urlencoded")),
        ),
        row("a foreign origin", (403, -32600, "Origin"), |client| {
            client.post(&[("origin", "http://evil.example.com")], PING.as_bytes())
        }),
        row("an origin that is null", (403, -32600, "Origin"), |client| {
            client.post(&[("origin", "null")], PING.as_bytes())
        }),
        row("a foreign host", (403, -32600, "Host"), |client| {
            let head = client
                .head()
                .replace(&client.gateway.to_string(), "evil.example.com");
            let request = format!("{head}content-length: {}\r\n\r\n{PING}", PING.len());
            http_client::verbatim(client.gateway, request.as_bytes())
        }),
        row(
            "an unknown revision",
            (400, -32600, "MCP-Protocol-Version"),
            |client| client.ping_with("mcp-protocol-version", Some("1900-01-01")),
        ),
    ]
}

/// A row that sends a malformed request head. The response is the last one on its connection.
fn no_head(
    fault: &'static str,
    (status, says): (u16, &'static str),
    sent: impl Fn(&Client<'_>) -> String + 'static,
) -> Row {
    row(fault, (status, -32600, says), move |client| {
        let answer = http_client::verbatim(client.gateway, sent(client).as_bytes())?;
        ensure!(answer.header("connection") == Some("close"), "{answer:?}");
        ensure!(answer.header("content-type") == Some(JSON.1), "{answer:?}");
        ensure!(answer.message()?["id"] == Value::Null, "{answer:?}");
        Ok(answer)
    })
}

/// Headers that a request has twice. Where two parsers could choose different ones, the request is rejected, even if both values are equal:
/// such a client may also send different values.
pub(crate) fn doubled() -> Vec<Row> {
    const TWICE: [(&str, &str, &str); 8] = [
        ("host", "evil.example.com", "The header host stands twice"),
        (
            "content-type",
            "text/plain",
            "The header content-type stands twice",
        ),
        (
            "mcp-session-id",
            "v1.AAAA",
            "The header mcp-session-id stands twice",
        ),
        (
            "mcp-protocol-version",
            "2025-06-18",
            "The header mcp-protocol-version stands twice",
        ),
        (
            "origin",
            "http://evil.example.com",
            "The header origin stands twice",
        ),
        (
            "authorization",
            "Bearer b",
            "The header authorization stands twice",
        ),
        ("last-event-id", "b", "The header last-event-id stands twice"),
        ("mcp-method", "tools/call", "The header mcp-method stands twice"),
    ];
    let good = |client: &Client<'_>, name: &str| match name {
        "host" => client.gateway.to_string(),
        "content-type" => JSON.1.to_owned(),
        "mcp-session-id" => client.session.id.clone(),
        "mcp-protocol-version" => "2025-11-25".to_owned(),
        "origin" => format!("http://{}", client.gateway),
        "authorization" => "Bearer a".to_owned(),
        "mcp-method" => "ping".to_owned(),
        _ => "a".to_owned(),
    };
    let mut rows = Vec::new();
    for (name, other, says) in TWICE {
        // Two different values in both orders, and two equal values.
        for which in [[true, false], [false, true], [true, true]] {
            rows.push(row(name, (400, -32600, says), move |client| {
                let mut head = String::new();
                for line in client.head().split_inclusive("\r\n") {
                    if !line.starts_with(&format!("{name}:")) {
                        head.push_str(line);
                    }
                }
                for is_good in which {
                    let value = if is_good {
                        good(client, name)
                    } else {
                        other.to_owned()
                    };
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                let request = format!("{head}content-length: {}\r\n\r\n{PING}", PING.len());
                http_client::verbatim(client.gateway, request.as_bytes())
            }));
        }
    }
    rows.extend([
        row("the same length twice, which is one", (200, 0, ""), |client| {
            let length = format!("content-length: {}\r\n", PING.len());
            let request = format!("{}{length}{length}\r\n{PING}", client.head());
            http_client::verbatim(client.gateway, request.as_bytes())
        }),
        row("what is accepted in two headers", (200, 0, ""), |client| {
            let two = "accept: application/json\r\naccept: text/event-stream\r\n";
            let head = client.head().replace(&format!("accept: {}\r\n", ACCEPT.1), two);
            let request = format!("{head}content-length: {}\r\n\r\n{PING}", PING.len());
            http_client::verbatim(client.gateway, request.as_bytes())
        }),
        smuggled(
            "a length before chunks",
            "content-length: 500\r\ntransfer-encoding: chunked\r\n",
        ),
        smuggled(
            "a length behind chunks",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        ),
    ]);
    rows
}

/// Request smuggling: a request with a content length and with chunks, and another request in it or after it. The chunks count (RFC 9112,
/// section 6.3). A proxy that uses the length would see other requests, so nothing after the chunks is answered, and the connection closes.
fn smuggled(fault: &'static str, lengths: &'static str) -> Row {
    row(fault, (200, 0, ""), move |client| {
        let head = client.head().replace("connection: close\r\n", "");
        let body = format!("{:x}\r\n{PING}\r\n0\r\n\r\n", PING.len());
        let hidden = format!("{head}content-length: {}\r\n\r\n{PING}", PING.len());
        let request = format!("{head}{lengths}\r\n{body}{hidden}");
        let answer = http_client::verbatim(client.gateway, request.as_bytes())?;
        ensure!(answer.header("connection") == Some("close"), "{answer:?}");
        ensure!(answer.text().matches("jsonrpc").count() == 1, "{answer:?}");
        Ok(answer)
    })
}

pub(crate) fn http() -> Vec<Row> {
    vec![
        row("another path", (404, 0, "/mcp"), |client| {
            http_client::exchange(client.gateway, "POST", "/", &[JSON, ACCEPT], PING.as_bytes())
        }),
        row("another verb", (405, 0, ""), |client| {
            http_client::exchange(client.gateway, "PUT", "/mcp", &[JSON, ACCEPT], PING.as_bytes())
        }),
        no_head("no HTTP", (400, "not HTTP/1.1: invalid HTTP method"), |_| {
            "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03 hello\r\n\r\n".to_owned()
        }),
        no_head("HTTP/2", (505, "supports only HTTP/1.1"), |_| {
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()
        }),
        no_head(
            "a header without a name",
            (400, "not HTTP/1.1: invalid HTTP header"),
            |client| format!("{}: nameless\r\n\r\n", client.head()),
        ),
        no_head("a flood of headers", (431, "more than 100 headers"), |client| {
            let flood: String = (0..500).map(|number| format!("x-{number}: y\r\n")).collect();
            format!("{}{flood}\r\n", client.head())
        }),
        no_head("a header of 8 MiB", (431, "larger than 65536 bytes"), |client| {
            format!("{}x-long: {}\r\n\r\n", client.head(), "y".repeat(8 << 20))
        }),
        no_head(
            "a target of 8 MiB",
            (414, "longer than the 65536 bytes"),
            |client| {
                let target = format!("/mcp?{}", "y".repeat(8 << 20));
                format!("{}\r\n", client.head().replacen("/mcp", &target, 1))
            },
        ),
        no_head("two lengths", (400, "invalid content-length"), |client| {
            let lengths = "content-length: 5\r\ncontent-length: 50\r\n\r\n";
            format!("{}{lengths}{PING}", client.head())
        }),
        no_head("a list of lengths", (400, "invalid content-length"), |client| {
            format!(
                "{}content-length: {1}, {1}\r\n\r\n{PING}",
                client.head(),
                PING.len()
            )
        }),
        no_head(
            "a length and chunks of another kind",
            (400, "transfer-encoding"),
            |client| {
                let headers = "content-length: 5\r\ntransfer-encoding: chunked, identity\r\n\r\n";
                format!("{}{headers}{PING}", client.head())
            },
        ),
        row(
            "a body that breaks off",
            (400, -32700, "ended before it was complete"),
            |client| {
                let request = format!("{}content-length: 100\r\n\r\n{{", client.head());
                let mut stream = TcpStream::connect(client.gateway)?;
                stream.write_all(request.as_bytes())?;
                stream.shutdown(Shutdown::Write)?;
                http_client::answer(stream)
            },
        ),
        row(
            "a chunk that is none",
            (400, -32700, "ended before it was complete"),
            |client| {
                let request = format!("{}transfer-encoding: chunked\r\n\r\nnonsense\r\n", client.head());
                http_client::verbatim(client.gateway, request.as_bytes())
            },
        ),
    ]
}
