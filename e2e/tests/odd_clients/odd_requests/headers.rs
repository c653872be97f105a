//! Headers of a call.

use super::{OddClient, call, in_session, one};
use crate::conversation::{self, Request};

pub(super) fn all() -> Vec<OddClient> {
    let mut all = vec![
        call("accept-missing", |call| call.without("accept")),
        call("accept-in-two-headers", |call| {
            call.header("Accept", "application/json")
                .and("Accept", "text/event-stream")
        }),
        call("content-type-missing", |call| call.without("content-type")),
        call("content-type-twice", |call| {
            call.and("Content-Type", "application/json")
        }),
        call("content-type-twice-in-two-ways", |call| {
            call.and("Content-Type", "text/plain")
        }),
        call("revision-missing", |call| call.without("mcp-protocol-version")),
        call("revision-twice", |call| {
            call.and("MCP-Protocol-Version", "2025-11-25")
        }),
        call("revision-twice-in-two-ways", |call| {
            call.and("MCP-Protocol-Version", "2025-06-18")
        }),
        call("session-missing", |call| call.without("mcp-session-id")),
        call("session-twice", |call| call.and("Mcp-Session-Id", "$session")),
        call("session-twice-in-two-ways", |call| {
            call.and("Mcp-Session-Id", "another")
        }),
        call("host-twice", |call| call.and("Host", "$host")),
        call("host-missing", |call| call.without("host")),
        call("accept-encoding-twice", |call| {
            call.and("Accept-Encoding", "gzip").and("Accept-Encoding", "br")
        }),
        call("names-in-capitals", |call| {
            let mut call = call;
            for (name, _) in &mut call.headers {
                *name = name.to_ascii_uppercase();
            }
            call
        }),
        call("names-in-small-letters", |call| {
            let mut call = call;
            for (name, _) in &mut call.headers {
                *name = name.to_ascii_lowercase();
            }
            call
        }),
        call("headers-many", |call| {
            (0..60).fold(call, |call, number| call.and(&format!("X-Extra-{number}"), "1"))
        }),
        call("header-of-12-kb", |call| {
            call.and("X-Extra", &"x".repeat(12 * 1024))
        }),
        call("header-with-blank-before-colon", |call| call.and("X-Extra ", "1")),
        call("header-folded", |call| call.and("X-Extra", "1\r\n 2")),
        call("header-without-name", |call| call.and("", "1")),
        call("header-with-odd-name", |call| call.and("X Extra", "1")),
        call("header-with-nul", |call| call.and("X-Extra", "1\0")),
        call("header-with-lone-cr", |call| call.and("X-Extra", "1\r2")),
    ];
    for (name, header, value) in VALUES {
        all.push(call(*name, |call| call.header(header, value)));
    }
    let usual = || Request::post(conversation::call()).in_session();
    all.push(in_session(
        "cookie-twice",
        usual().and("Cookie", "a=1").and("Cookie", "b=2"),
        one(),
    ));
    all
}

/// Values instead of the usual ones.
const VALUES: &[(&str, &str, &str)] = &[
    ("accept-star", "Accept", "*/*"),
    ("accept-star-with-weight", "Accept", "*/*;q=0.1"),
    ("accept-json", "Accept", "application/json"),
    (
        "accept-json-with-charset",
        "Accept",
        "application/json; charset=utf-8, text/event-stream",
    ),
    (
        "accept-json-with-version",
        "Accept",
        "application/json;version=1,text/event-stream",
    ),
    ("accept-events", "Accept", "text/event-stream"),
    (
        "accept-events-first",
        "Accept",
        "text/event-stream, application/json",
    ),
    (
        "accept-with-weights",
        "Accept",
        "application/json;q=0.9, text/event-stream;q=0.8",
    ),
    (
        "accept-with-weight-of-0",
        "Accept",
        "application/json;q=0, text/event-stream;q=0",
    ),
    (
        "accept-in-capitals",
        "Accept",
        "APPLICATION/JSON, TEXT/EVENT-STREAM",
    ),
    ("accept-families", "Accept", "application/*, text/*"),
    ("accept-family-of-json", "Accept", "application/*"),
    ("accept-text-family", "Accept", "application/json, text/*"),
    ("accept-empty", "Accept", ""),
    (
        "accept-without-blanks",
        "Accept",
        "application/json,text/event-stream",
    ),
    (
        "accept-with-blanks",
        "Accept",
        " application/json  ,   text/event-stream ",
    ),
    (
        "accept-with-tabs",
        "Accept",
        "application/json,\ttext/event-stream",
    ),
    (
        "accept-with-comma-at-end",
        "Accept",
        "application/json, text/event-stream,",
    ),
    (
        "accept-of-a-browser",
        "Accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    ),
    ("accept-html", "Accept", "text/html"),
    (
        "accept-json-lines",
        "Accept",
        "application/jsonl, text/event-stream",
    ),
    (
        "accept-json-rpc",
        "Accept",
        "application/json-rpc, text/event-stream",
    ),
    (
        "accept-json-patch",
        "Accept",
        "application/json-patch+json, text/event-stream",
    ),
    (
        "accept-quoted",
        "Accept",
        "\"application/json, text/event-stream\"",
    ),
    (
        "accept-with-semicolons",
        "Accept",
        "application/json; text/event-stream",
    ),
    (
        "accept-with-blank-between",
        "Accept",
        "application/json text/event-stream",
    ),
    (
        "accept-vendor-json",
        "Accept",
        "application/vnd.mcp+json, text/event-stream",
    ),
    (
        "content-type-with-charset",
        "Content-Type",
        "application/json; charset=utf-8",
    ),
    (
        "content-type-with-charset-in-capitals",
        "Content-Type",
        "application/json;charset=UTF-8",
    ),
    (
        "content-type-with-charset-quoted",
        "Content-Type",
        "application/json; charset=\"utf-8\"",
    ),
    (
        "content-type-with-latin-1",
        "Content-Type",
        "application/json; charset=iso-8859-1",
    ),
    (
        "content-type-with-utf-16",
        "Content-Type",
        "application/json; charset=utf-16",
    ),
    (
        "content-type-with-odd-charset",
        "Content-Type",
        "application/json; charset=what",
    ),
    (
        "content-type-with-odd-parameter",
        "Content-Type",
        "application/json; a=b",
    ),
    (
        "content-type-with-parameter-without-value",
        "Content-Type",
        "application/json; a",
    ),
    (
        "content-type-with-semicolon-at-end",
        "Content-Type",
        "application/json;",
    ),
    (
        "content-type-with-blank-before-semicolon",
        "Content-Type",
        "application/json ; charset=utf-8",
    ),
    ("content-type-in-capitals", "Content-Type", "Application/JSON"),
    ("content-type-empty", "Content-Type", ""),
    ("content-type-text", "Content-Type", "text/plain"),
    ("content-type-text-json", "Content-Type", "text/json"),
    ("content-type-json-rpc", "Content-Type", "application/json-rpc"),
    (
        "content-type-json-request",
        "Content-Type",
        "application/jsonrequest",
    ),
    (
        "content-type-vendor-json",
        "Content-Type",
        "application/vnd.api+json",
    ),
    (
        "content-type-json-patch",
        "Content-Type",
        "application/json-patch+json",
    ),
    (
        "content-type-listed-twice",
        "Content-Type",
        "application/json, application/json",
    ),
    (
        "content-type-of-a-list",
        "Content-Type",
        "application/json, text/event-stream",
    ),
    (
        "content-type-form",
        "Content-Type",
        "application/x-www-form-urlencoded",
    ),
    (
        "content-type-in-parameter",
        "Content-Type",
        "text/plain; a=application/json",
    ),
    ("content-type-bytes", "Content-Type", "application/octet-stream"),
    ("revision-2024-11-05", "MCP-Protocol-Version", "2024-11-05"),
    ("revision-2025-03-26", "MCP-Protocol-Version", "2025-03-26"),
    ("revision-2025-06-18", "MCP-Protocol-Version", "2025-06-18"),
    ("revision-2024-10-07", "MCP-Protocol-Version", "2024-10-07"),
    ("revision-2026-07-28", "MCP-Protocol-Version", "2026-07-28"),
    ("revision-of-the-future", "MCP-Protocol-Version", "2099-01-01"),
    ("revision-of-the-past", "MCP-Protocol-Version", "2020-01-01"),
    ("revision-draft", "MCP-Protocol-Version", "DRAFT-2025-v3"),
    ("revision-1", "MCP-Protocol-Version", "1.0"),
    ("revision-empty", "MCP-Protocol-Version", ""),
    ("revision-quoted", "MCP-Protocol-Version", "\"2025-11-25\""),
    ("revision-with-blanks", "MCP-Protocol-Version", "  2025-11-25  "),
    (
        "revision-listed",
        "MCP-Protocol-Version",
        "2025-11-25, 2025-06-18",
    ),
    (
        "revision-listed-twice",
        "MCP-Protocol-Version",
        "2025-11-25, 2025-11-25",
    ),
    ("session-empty", "Mcp-Session-Id", ""),
    (
        "session-unknown",
        "Mcp-Session-Id",
        "01234567-89ab-cdef-0123-456789abcdef",
    ),
    ("session-quoted", "Mcp-Session-Id", "\"$session\""),
    ("session-with-blanks", "Mcp-Session-Id", "  $session  "),
    ("session-listed-twice", "Mcp-Session-Id", "$session, $session"),
    ("host-of-localhost", "Host", "localhost"),
    ("host-in-capitals", "Host", "LOCALHOST"),
    ("host-without-port", "Host", "127.0.0.1"),
    ("host-with-other-port", "Host", "127.0.0.1:1"),
    ("host-of-localhost-with-other-port", "Host", "localhost:1"),
    ("host-with-dot-at-end", "Host", "localhost."),
    ("host-of-ipv6", "Host", "[::1]:80"),
    ("host-of-other-loopback", "Host", "127.0.0.2"),
    ("host-of-subdomain", "Host", "mcp.localhost"),
    ("host-of-another", "Host", "example.com"),
    ("host-empty", "Host", ""),
    ("host-with-odd-port", "Host", "127.0.0.1:what"),
    ("origin-of-its-own", "Origin", "http://$host"),
    ("origin-of-its-own-with-tls", "Origin", "https://$host"),
    ("origin-of-localhost", "Origin", "http://localhost:6274"),
    ("origin-of-loopback", "Origin", "http://127.0.0.1:6274"),
    ("origin-null", "Origin", "null"),
    ("origin-empty", "Origin", ""),
    ("origin-of-another", "Origin", "https://example.com"),
    ("origin-of-an-app", "Origin", "app://obsidian.md"),
    ("origin-of-an-editor", "Origin", "vscode-webview://0123"),
    ("origin-that-is-none", "Origin", "what is this"),
    ("authorization-basic", "Authorization", "Basic dTpw"),
    ("authorization-bearer", "Authorization", "Bearer abc"),
    ("authorization-empty", "Authorization", ""),
    ("authorization-odd", "Authorization", "what"),
    ("cookie", "Cookie", "a=1; b=2"),
    ("last-event-id", "Last-Event-ID", "what"),
    ("last-event-id-empty", "Last-Event-ID", ""),
    ("mcp-method-of-another", "Mcp-Method", "tools/list"),
    ("mcp-name-of-another", "Mcp-Name", "other"),
    ("method-override", "X-HTTP-Method-Override", "DELETE"),
    ("content-encoding-identity", "Content-Encoding", "identity"),
    ("content-encoding-empty", "Content-Encoding", ""),
    ("content-encoding-utf-8", "Content-Encoding", "utf-8"),
    (
        "accept-encoding-of-nothing",
        "Accept-Encoding",
        "identity;q=0, *;q=0",
    ),
    (
        "accept-encoding-gzip",
        "Accept-Encoding",
        "gzip, deflate, br, zstd",
    ),
    ("accept-charset-of-latin-1", "Accept-Charset", "iso-8859-1"),
    ("accept-language", "Accept-Language", "de, *;q=0.1"),
    ("range", "Range", "bytes=0-10"),
    ("if-match", "If-Match", "\"a\""),
    ("if-none-match", "If-None-Match", "*"),
    ("prefer-async", "Prefer", "respond-async"),
    ("te-trailers", "TE", "trailers"),
    ("trailer-announced", "Trailer", "X-Extra"),
    ("upgrade-to-http-2", "Upgrade", "h2c"),
    ("connection-keep-alive", "Connection", "keep-alive"),
    ("connection-close", "Connection", "close"),
    ("connection-upgrade", "Connection", "Upgrade"),
    ("connection-names-session", "Connection", "close, Mcp-Session-Id"),
    ("keep-alive", "Keep-Alive", "timeout=5"),
    ("max-forwards", "Max-Forwards", "0"),
    (
        "forwarded",
        "Forwarded",
        "for=10.0.0.1;host=example.com;proto=https",
    ),
    ("forwarded-host", "X-Forwarded-Host", "example.com"),
    ("traceparent-odd", "Traceparent", "what"),
    ("user-agent-empty", "User-Agent", ""),
    ("header-empty", "X-Extra", ""),
    ("header-in-utf-8", "X-Extra", "Grüße"),
    ("sec-fetch-cross-site", "Sec-Fetch-Site", "cross-site"),
    ("expect-of-another", "Expect", "what"),
];
