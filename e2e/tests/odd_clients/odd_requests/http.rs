//! How a request stands on the wire, its path, and other verbs than POST.

use std::io::Write as _;

use serde_json::json;

use super::{OddClient, REVISION, asks, call, in_session, odd, one};
use crate::conversation::{self, ID, Request, Wanted};

pub(super) fn all() -> Vec<OddClient> {
    let mut all = paths();
    all.extend(verbs());
    all.extend(wire());
    all.extend(connections());
    all
}

fn paths() -> Vec<OddClient> {
    const PATHS: &[(&str, &str)] = &[
        ("path-with-slash", "/mcp/"),
        ("path-with-query", "/mcp?"),
        ("path-with-parameters", "/mcp?a=b&c"),
        ("path-with-session", "/mcp?sessionId=what"),
        ("path-with-slash-and-query", "/mcp/?a=b"),
        ("path-with-two-slashes", "//mcp"),
        ("path-with-two-slashes-at-end", "/mcp//"),
        ("path-in-capitals", "/MCP"),
        ("path-with-escape", "/%6dcp"),
        ("path-with-dot", "/./mcp"),
        ("path-with-dots", "/a/../mcp"),
        ("path-with-semicolon", "/mcp;a=b"),
        ("path-with-blank-at-end", "/mcp%20"),
        ("path-with-fragment", "/mcp#a"),
        ("path-absolute", "http://$host/mcp"),
        ("path-absolute-of-another", "http://example.com/mcp"),
        ("path-below", "/mcp/message"),
        ("path-of-root", "/"),
        ("path-of-sse", "/sse"),
    ];
    let paths = PATHS.iter();
    paths
        .map(|(name, path)| call(*name, |call| call.path(path)))
        .collect()
}

fn verbs() -> Vec<OddClient> {
    let get = Request::get;
    let stream = |name, request: Request| in_session(name, request, Wanted::Stream);
    let ends = |name, request: Request| {
        odd(name, move |client| {
            client.open(REVISION)?;
            client.send(&request, &Wanted::Success);
            Ok(())
        })
    };
    let other = |name, verb| in_session(name, Request::post("").verb(verb).in_session(), Wanted::Success);
    vec![
        stream("get", get()),
        stream("get-accepts-all", get().header("Accept", "*/*")),
        stream("get-accepts-text", get().header("Accept", "text/*")),
        stream(
            "get-accepts-both",
            get().header("Accept", "application/json, text/event-stream"),
        ),
        stream("get-accepts-json", get().header("Accept", "application/json")),
        stream("get-accepts-nothing", get().without("accept")),
        stream(
            "get-accepts-in-capitals",
            get().header("Accept", "TEXT/EVENT-STREAM"),
        ),
        stream(
            "get-with-parameter",
            get().header("Accept", "text/event-stream; charset=utf-8"),
        ),
        stream(
            "get-with-content-type",
            get().header("Content-Type", "application/json"),
        ),
        stream(
            "get-with-content-type-text",
            get().header("Content-Type", "text/plain"),
        ),
        stream("get-without-revision", get().without("mcp-protocol-version")),
        stream(
            "get-with-older-revision",
            get().header("MCP-Protocol-Version", "2025-03-26"),
        ),
        stream(
            "get-with-unknown-revision",
            get().header("MCP-Protocol-Version", "2020-01-01"),
        ),
        stream("get-without-session", get().without("mcp-session-id")),
        stream("get-with-unknown-session", get().header("Mcp-Session-Id", "what")),
        stream("get-with-slash", get().path("/mcp/")),
        stream("get-with-last-event-id", get().header("Last-Event-ID", "what")),
        stream("get-with-last-event-id-of-0", get().header("Last-Event-ID", "0")),
        stream("get-with-last-event-id-empty", get().header("Last-Event-ID", "")),
        stream(
            "get-with-last-event-id-of-another-form",
            get().header("Last-Event-ID", "a_1"),
        ),
        stream(
            "get-with-last-event-id-in-utf-8",
            get().header("Last-Event-ID", "Grüße"),
        ),
        stream(
            "get-with-cache-control",
            get().header("Cache-Control", "no-store"),
        ),
        stream("get-with-body", with_body(get(), "{}")),
        stream("get-with-call", with_body(get(), &conversation::call())),
        stream(
            "get-without-anything",
            get()
                .without("accept")
                .without("mcp-session-id")
                .without("mcp-protocol-version"),
        ),
        in_session("get-in-small-letters", get().verb("get"), Wanted::Success),
        in_session("head", get().verb("HEAD"), Wanted::Success),
        in_session("options", get().verb("OPTIONS"), Wanted::Success),
        in_session(
            "options-of-a-browser",
            get()
                .verb("OPTIONS")
                .header("Origin", "http://$host")
                .header("Access-Control-Request-Method", "POST"),
            Wanted::Success,
        ),
        other("put", "PUT"),
        other("patch", "PATCH"),
        other("trace", "TRACE"),
        other("verb-unknown", "WHAT"),
        call("post-in-small-letters", |call| call.verb("post")),
        call("put-of-a-call", |call| call.verb("PUT")),
        ends("delete", Request::delete()),
        ends("delete-with-body", with_body(Request::delete(), "{}")),
        ends(
            "delete-without-revision",
            Request::delete().without("mcp-protocol-version"),
        ),
        ends(
            "delete-with-older-revision",
            Request::delete().header("MCP-Protocol-Version", "2025-03-26"),
        ),
        ends(
            "delete-with-unknown-revision",
            Request::delete().header("MCP-Protocol-Version", "2020-01-01"),
        ),
        ends(
            "delete-without-session",
            Request::delete().without("mcp-session-id"),
        ),
        ends(
            "delete-with-unknown-session",
            Request::delete().header("Mcp-Session-Id", "what"),
        ),
        ends(
            "delete-accepts-json",
            Request::delete().header("Accept", "application/json"),
        ),
        ends(
            "delete-accepts-html",
            Request::delete().header("Accept", "text/html"),
        ),
        ends(
            "delete-with-content-type",
            Request::delete().header("Content-Type", "text/plain"),
        ),
        ends("delete-with-slash", Request::delete().path("/mcp/")),
    ]
}

fn with_body(mut request: Request, body: &str) -> Request {
    request.body = body.into();
    request
}

fn chunks(request: &Request, size: usize, extension: &str, trailer: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for chunk in request.body.chunks(size) {
        // Writing to memory does not fail.
        drop(write!(body, "{:x}{extension}\r\n", chunk.len()));
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
    body
}

fn chunked(request: &Request) -> Request {
    request.clone().and("Transfer-Encoding", "chunked")
}

fn wire() -> Vec<OddClient> {
    let sent = |name, wire: fn(&Request) -> Vec<Vec<u8>>| call(name, |call| call.wire(wire));
    vec![
        sent("chunked", |request| {
            vec![[chunked(request).head(false), chunks(request, 4096, "", "")].concat()]
        }),
        sent("chunked-in-bytes", |request| {
            vec![[chunked(request).head(false), chunks(request, 1, "", "")].concat()]
        }),
        sent("chunked-with-extension", |request| {
            vec![[chunked(request).head(false), chunks(request, 50, ";a=b", "")].concat()]
        }),
        sent("chunked-with-trailer", |request| {
            vec![
                [
                    chunked(request).head(false),
                    chunks(request, 50, "", "X-Extra: 1\r\n"),
                ]
                .concat(),
            ]
        }),
        sent("chunked-in-capitals", |request| {
            let head = request.clone().and("Transfer-Encoding", "Chunked").head(false);
            vec![[head, chunks(request, 50, "", "")].concat()]
        }),
        sent("chunked-with-length", |request| {
            vec![[chunked(request).head(true), chunks(request, 50, "", "")].concat()]
        }),
        sent("chunked-twice", |request| {
            let head = chunked(&chunked(request)).head(false);
            vec![[head, chunks(request, 50, "", "")].concat()]
        }),
        sent("transfer-encoding-identity", |request| {
            let head = request.clone().and("Transfer-Encoding", "identity").head(true);
            vec![[head, request.body.clone()].concat()]
        }),
        sent("length-twice", |request| {
            let length = request.body.len().to_string();
            let head = request.clone().and("Content-Length", &length).head(true);
            vec![[head, request.body.clone()].concat()]
        }),
        sent("length-twice-in-two-ways", |request| {
            let head = request.clone().and("Content-Length", "3").head(true);
            vec![[head, request.body.clone()].concat()]
        }),
        sent("length-with-plus", |request| {
            let length = format!("+{}", request.body.len());
            let head = request.clone().and("Content-Length", &length).head(false);
            vec![[head, request.body.clone()].concat()]
        }),
        sent("length-with-zeros", |request| {
            let length = format!("00{}", request.body.len());
            let head = request.clone().and("Content-Length", &length).head(false);
            vec![[head, request.body.clone()].concat()]
        }),
        sent("in-two-pieces", |request| {
            let (first, second) = request.body.split_at(request.body.len() / 2);
            vec![[request.head(true).as_slice(), first].concat(), second.to_vec()]
        }),
        sent("head-in-two-pieces", |request| {
            let head = request.head(true);
            let (first, second) = head.split_at(head.len() / 2);
            vec![first.to_vec(), [second, &request.body].concat()]
        }),
        sent("body-behind-head", |request| {
            vec![request.head(true), request.body.clone()]
        }),
        sent("expect-continue", |request| {
            vec![
                request.clone().and("Expect", "100-continue").head(true),
                request.body.clone(),
            ]
        }),
        sent("expect-continue-at-once", |request| {
            let head = request.clone().and("Expect", "100-continue").head(true);
            vec![[head, request.body.clone()].concat()]
        }),
        sent("empty-line-before", |request| {
            vec![[b"\r\n".to_vec(), request.head(true), request.body.clone()].concat()]
        }),
        sent("lines-of-unix", |request| {
            let head = String::from_utf8_lossy(&request.head(true)).replace("\r\n", "\n");
            vec![[head.as_bytes(), &request.body].concat()]
        }),
        sent("line-with-two-blanks", |request| {
            let head = String::from_utf8_lossy(&request.head(true)).replacen(' ', "  ", 1);
            vec![[head.as_bytes(), &request.body].concat()]
        }),
        sent("bytes-behind", |request| {
            vec![[request.head(true), request.body.clone(), b"\r\n".to_vec()].concat()]
        }),
        sent("no-body", |request| vec![request.head(false)]),
        call("http-1-0", |call| call.version("HTTP/1.0")),
        call("http-1-0-kept-alive", |call| {
            call.version("HTTP/1.0").and("Connection", "keep-alive")
        }),
        call("http-1-2", |call| call.version("HTTP/1.2")),
        asks("body-empty", ""),
        asks("body-of-blanks", "   "),
    ]
}

/// Several requests on one connection.
fn connections() -> Vec<OddClient> {
    let usual = || Request::post(conversation::call()).in_session();
    let one_after_the_other = |name, first: Request, wanted: Wanted| {
        odd(name, move |client| {
            client.open(REVISION)?;
            let mut connection = client.connect()?;
            for (request, wanted) in [(&first, &wanted), (&usual(), &one())] {
                let pieces = client.pieces(request);
                connection.write(&pieces);
                // To the end, where the next answer begins.
                let answer = connection.read(crate::connection::Until::Answers(usize::MAX));
                client.note(answer, wanted);
            }
            connection.close();
            Ok(())
        })
    };
    let told = r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#;
    vec![
        one_after_the_other("two-on-one-connection", usual(), one()),
        one_after_the_other(
            "call-behind-notification",
            Request::post(told).in_session(),
            Wanted::Accepted,
        ),
        one_after_the_other(
            "call-behind-ping",
            Request::post(json!({"jsonrpc": "2.0", "id": ID, "method": "ping"}).to_string()).in_session(),
            one(),
        ),
        odd("two-in-one-piece", move |client| {
            client.open(REVISION)?;
            let mut connection = client.connect()?;
            let pieces = client.pieces(&usual()).concat();
            connection.write(&[[pieces.clone(), pieces].concat()]);
            for _ in 0..2 {
                let answer = connection.read(crate::connection::Until::Answers(usize::MAX));
                client.note(answer, &one());
            }
            connection.close();
            Ok(())
        }),
    ]
}
