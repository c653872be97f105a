//! The MCP endpoint: host names, CORS, headers, eras of the protocol, and the time to open a session.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmcp_crds::config::HotConfig;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::{self, Answer, Session};
use vmcp_e2e::mount::Mount;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

const LIMIT: Duration = Duration::from_secs(20);
const MEDIA: &str = "content-type: application/json\r\naccept: application/json, text/event-stream\r\n";

fn gateway(change: impl FnOnce(&mut HotConfig)) -> anyhow::Result<Gateway> {
    let mut recipe = Recipe::in_memory(&[])?;
    change(recipe.hot());
    recipe.start()
}

fn request(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": "a", "method": method, "params": params})
}

fn initialize() -> Value {
    let info = json!({"name": "http-client", "version": "1"});
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info});
    request("initialize", &params)
}

/// Sends a request with `head` beside the usual headers.
fn with_head(mcp: SocketAddr, method: &str, head: &str, body: &str) -> anyhow::Result<Answer> {
    let length = body.len();
    let text = format!(
        "{method} /mcp HTTP/1.1\r\nconnection: close\r\n{head}content-length: {length}\r\n\r\n{body}"
    );
    http_client::verbatim(mcp, text.as_bytes())
}

fn from(mcp: SocketAddr, host: &str, origin: Option<&str>) -> anyhow::Result<Answer> {
    let origin = origin.map_or(String::new(), |origin| format!("origin: {origin}\r\n"));
    let head = format!("host: {host}\r\n{origin}{MEDIA}");
    with_head(mcp, "POST", &head, &initialize().to_string())
}

/// The endpoint accepts the configured host names and origins only.
#[test]
fn endpoint_checks_host_and_origin() -> anyhow::Result<()> {
    let mount = Mount::new("{}\n")?;
    let mut recipe = Recipe::in_memory(&[])?;
    recipe.config.hot = None;
    recipe.config.hot_file = Some(mount.file());
    let gateway = recipe.start()?;
    let own = gateway.mcp.to_string();
    let status = |host: &str, origin: Option<&str>| anyhow::Ok(from(gateway.mcp, host, origin)?.status);
    let page = "https://app.example.com";
    assert_eq!(status(&own, None)?, 200);
    assert_eq!(status("mcp.example.com", None)?, 403);
    assert_eq!(status(&own, Some(page))?, 403);

    mount.put("{allowedHosts: ['mcp.example.com'], allowedOrigins: ['https://app.example.com']}\n")?;
    wait::until("the lists hold", LIMIT, || {
        anyhow::ensure!(status("mcp.example.com", None)? == 200, "not yet");
        Ok(())
    })?;
    assert_eq!(status("mcp.example.com:8443", Some(page))?, 200);
    assert_eq!(status("mcp.example.com", Some("https://mcp.example.com"))?, 200);
    assert_eq!(status(&own, None)?, 200);
    let refused = from(gateway.mcp, "evil.example.com", None)?;
    assert_eq!((refused.status, refused.error_code()), (403, -32600));
    assert!(refused.text().contains("allowedHosts"), "{}", refused.text());
    let refused = from(gateway.mcp, "mcp.example.com", Some("https://evil.example.com"))?;
    assert_eq!((refused.status, refused.error_code()), (403, -32600));
    assert!(refused.text().contains("allowedOrigins"), "{}", refused.text());
    assert_eq!(refused.header("access-control-allow-origin"), None);
    Ok(())
}

/// A page of an allowed origin can use the endpoint from a browser: preflight, request and exposed headers.
#[test]
fn allowed_origin_can_use_endpoint_from_browser() -> anyhow::Result<()> {
    let gateway = gateway(|hot| hot.allowed_origins = vec!["https://app.example.com".to_owned()])?;
    let mcp = gateway.mcp;
    let asks = |origin: &str| {
        let head = format!(
            "host: {mcp}\r\norigin: {origin}\r\naccess-control-request-method: POST\r\n\
             access-control-request-headers: authorization,content-type,mcp-protocol-version\r\n"
        );
        with_head(mcp, "OPTIONS", &head, "")
    };
    let page = "https://app.example.com";
    let may = asks(page)?;
    assert_eq!(may.status, 204);
    assert_eq!(may.header("access-control-allow-origin"), Some(page));
    assert_eq!(
        may.header("access-control-allow-methods"),
        Some("GET, POST, DELETE")
    );
    assert_eq!(
        may.header("access-control-allow-headers"),
        Some("authorization,content-type,mcp-protocol-version")
    );
    assert_eq!(may.header("vary"), Some("Origin"));
    assert_eq!(asks("https://evil.example.com")?.status, 403);

    // The page can read the response and the session id header, also of an error.
    let opened = from(mcp, &mcp.to_string(), Some(page))?;
    assert_eq!(
        (opened.status, opened.header("access-control-allow-origin")),
        (200, Some(page))
    );
    let readable = opened.header("access-control-expose-headers").unwrap_or_default();
    assert!(
        readable.contains("Mcp-Session-Id") && readable.contains("WWW-Authenticate"),
        "{readable}"
    );
    let lost = with_head(mcp, "POST", &format!("host: {mcp}\r\norigin: {page}\r\n"), "")?;
    assert_eq!(
        (lost.status, lost.header("access-control-allow-origin")),
        (415, Some(page))
    );
    // A client without an Origin header gets no CORS headers.
    assert_eq!(
        from(mcp, &mcp.to_string(), None)?.header("access-control-allow-origin"),
        None
    );
    assert_eq!(
        with_head(mcp, "OPTIONS", &format!("host: {mcp}\r\n"), "")?.status,
        405
    );
    Ok(())
}

/// A header with a single value is rejected if it is repeated.
#[test]
fn repeated_single_value_header_is_rejected() -> anyhow::Result<()> {
    let gateway = gateway(|_| {})?;
    let mcp = gateway.mcp;
    let session = Session::open(mcp)?;
    let ping = request("ping", &json!({})).to_string();
    let common = format!(
        "host: {mcp}\r\n{MEDIA}mcp-session-id: {}\r\nmcp-protocol-version: 2025-11-25\r\n",
        session.id
    );
    let send = |more: &str| with_head(mcp, "POST", &format!("{common}{more}"), &ping);
    assert_eq!(send("")?.status, 200);
    for (name, value) in [
        ("host", mcp.to_string()),
        ("mcp-session-id", session.id.clone()),
        ("MCP-Protocol-Version", "2025-06-18".to_owned()),
        ("content-type", "text/plain".to_owned()),
        ("content-length", "1".to_owned()),
    ] {
        let refused = send(&format!("{name}: {value}\r\n"))?;
        assert_eq!(refused.status, 400, "{name}: {}", refused.text());
    }
    let twice = send("mcp-session-id: v1.other\r\n")?;
    assert_eq!(twice.error_code(), -32600);
    assert!(
        twice.text().contains("mcp-session-id stands twice"),
        "{}",
        twice.text()
    );
    // A list header may be repeated.
    assert_eq!(send("accept: text/plain\r\n")?.status, 200);
    let no_host = with_head(
        mcp,
        "POST",
        &format!("{MEDIA}mcp-session-id: {}\r\n", session.id),
        &ping,
    )?;
    assert_eq!(no_host.status, 400, "{}", no_host.text());
    Ok(())
}

/// A flood of headers is rejected before the request is parsed.
#[test]
fn header_flood_is_rejected_before_parsing() -> anyhow::Result<()> {
    let gateway = gateway(|_| {})?;
    let mcp = gateway.mcp;
    let many: String = (0..120).map(|number| format!("x-{number}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "x".repeat(100 * 1024));
    for flood in [many, long] {
        let head = format!("host: {mcp}\r\n{MEDIA}{flood}");
        let refused = with_head(mcp, "POST", &head, &initialize().to_string())?;
        assert_eq!(refused.status, 431, "{}", refused.text());
    }
    assert_eq!(http_client::initialize(mcp)?.status, 200);
    Ok(())
}

/// A revision header that differs from the session's revision is accepted if it is known.
#[test]
fn other_known_revision_header_is_accepted() -> anyhow::Result<()> {
    let gateway = gateway(|_| {})?;
    let mcp = gateway.mcp;
    let session = Session::open_with(mcp, "2025-06-18", &json!({}))?;
    let ping = request("ping", &json!({}));
    let named = |revision: &str| {
        let headers = [
            ("mcp-session-id", &*session.id),
            ("mcp-protocol-version", revision),
        ];
        http_client::post(mcp, &headers, &ping)
    };
    for known in ["2025-06-18", "2025-11-25", "2025-03-26"] {
        assert_eq!(named(known)?.status, 200, "{known}");
    }
    for unknown in ["2026-07-28", "1900-01-01", "x"] {
        let refused = named(unknown)?;
        assert_eq!((refused.status, refused.error_code()), (400, -32600), "{unknown}");
    }
    let unknown = [
        ("mcp-session-id", &*session.id),
        ("mcp-protocol-version", "1900-01-01"),
    ];
    let refused = http_client::exchange(mcp, "DELETE", "/mcp", &unknown, b"")?;
    assert_eq!((refused.status, refused.error_code()), (400, -32600));
    assert_eq!(named("2025-06-18")?.status, 200, "it has not ended");
    Ok(())
}

#[test]
fn modern_era_probe_gets_legacy_response() -> anyhow::Result<()> {
    // A code of the modern era would mark a modern server, and the client would not go on with `initialize`. The probe leaves nothing
    // behind. Other modern messages are told which revisions there are.
    let gateway = gateway(|hot| hot.limits.sessions = 1)?;
    let mcp = gateway.mcp;
    let meta = |version: &Value| {
        json!({
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "http-client", "version": "1"},
        })
    };
    let modern = ("mcp-protocol-version", "2026-07-28");
    let discover = |version: &Value| request("server/discover", &json!({"_meta": meta(version)}));
    for _ in 0..5 {
        let answer = http_client::post(
            mcp,
            &[modern, ("mcp-method", "server/discover")],
            &discover(&json!("2026-07-28")),
        )?;
        let message = answer.message()?;
        assert_eq!(
            (answer.status, &message["error"]["code"]),
            (400, &json!(-32601)),
            "{message}"
        );
        assert_eq!(message["id"], "a");
        assert_eq!(answer.header("mcp-session-id"), None);
    }
    // Some libraries write every stroke with an escape.
    let escaped = discover(&json!("2026-07-28")).to_string().replace('/', r"\/");
    let head = format!("host: {mcp}\r\n{MEDIA}mcp-protocol-version: 2026-07-28\r\n");
    assert_eq!(with_head(mcp, "POST", &head, &escaped)?.error_code(), -32601);
    // Missing fields are reported first, in the order of all servers of that era.
    let call = request(
        "tools/call",
        &json!({"name": "x", "_meta": meta(&json!("2026-07-28"))}),
    );
    let answer = http_client::post(mcp, &[modern], &call)?;
    let data = &answer.message()?["error"]["data"];
    assert_eq!(data["requested"], "2026-07-28", "{}", answer.text());
    let supported = json!(["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"]);
    assert_eq!(data["supported"], supported, "{}", answer.text());
    let init = request("initialize", &json!({"_meta": meta(&json!("2026-07-28"))}));
    let no_capabilities = request(
        "ping",
        &json!({"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}),
    );
    for (what, headers, message, code) in [
        (
            "says nothing",
            &[][..],
            request("server/discover", &json!({})),
            -32601,
        ),
        (
            "header only",
            &[modern][..],
            request("tools/list", &json!({})),
            -32602,
        ),
        ("no capabilities", &[modern][..], no_capabilities, -32602),
        ("a number", &[modern][..], discover(&json!(1)), -32601),
        ("no header", &[][..], discover(&json!("2026-07-28")), -32601),
        ("a call without the header", &[][..], call.clone(), -32020),
        (
            "a call with another header",
            &[("mcp-protocol-version", "2025-11-25")][..],
            call.clone(),
            -32020,
        ),
        (
            "another header",
            &[("mcp-protocol-version", "2025-11-25")][..],
            discover(&json!("2026-07-28")),
            -32601,
        ),
        ("a call", &[modern][..], call, -32022),
        ("initialize", &[modern][..], init, -32022),
        (
            "an unknown revision",
            &[("mcp-protocol-version", "1900-01-01")][..],
            discover(&json!("1900-01-01")),
            -32601,
        ),
    ] {
        let answer = http_client::post(mcp, headers, &message)?;
        assert_eq!(
            (answer.status, answer.error_code()),
            (400, code),
            "{what}: {}",
            answer.text()
        );
        assert_eq!(answer.message()?["id"], "a", "{what}");
    }
    for method in ["GET", "DELETE"] {
        let head = format!("host: {mcp}\r\n{MEDIA}mcp-protocol-version: 2026-07-28\r\n");
        assert_eq!(with_head(mcp, method, &head, "")?.status, 405, "{method}");
    }
    // The only allowed session is still free, also for a client whose header names its newest revision.
    let opened = http_client::post(mcp, &[modern], &initialize())?;
    assert_eq!(opened.status, 200, "{}", opened.text());
    // In a session of the legacy era arguments may contain anything.
    let session = Session {
        id: opened.header("mcp-session-id").unwrap_or_default().to_owned(),
    };
    let hidden = json!({"name": "x", "arguments": {"_meta": meta(&json!("2026-07-28"))}});
    assert_eq!(session.request(mcp, "tools/call", &hidden)?.error_code(), -32602);
    assert_eq!(
        session.request(mcp, "server/discover", &json!({}))?.error_code(),
        -32601
    );
    Ok(())
}

/// A duplicate key in the parameters of `initialize` is rejected.
#[test]
fn duplicate_key_in_initialize_is_rejected() -> anyhow::Result<()> {
    let gateway = gateway(|_| {})?;
    let fields = r#""protocolVersion":"2025-11-25","capabilities":{"roots":{}},"clientInfo":{"name":"a","version":"1"}"#;
    for params in [
        format!(r#"{{{fields},"protocolVersion":"2025-06-18"}}"#),
        format!(r#"{{{fields},"client\u0049nfo":{{}}}}"#),
        format!(
            "{{{}}}",
            fields.replace(r#""roots":{}"#, r#""roots":{},"r\u006fots":{}"#)
        ),
        format!(
            "{{{}}}",
            fields.replace(r#""name":"a""#, r#""name":"a","name":"b""#)
        ),
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":"a","method":"initialize","params":{params}}}"#);
        let answer = with_head(
            gateway.mcp,
            "POST",
            &format!("host: {}\r\n{MEDIA}", gateway.mcp),
            &body,
        )?;
        assert_eq!(
            (answer.status, answer.error_code()),
            (400, -32600),
            "{params}: {}",
            answer.text()
        );
        assert_eq!(answer.message()?["id"], "a");
        assert_eq!(answer.header("mcp-session-id"), None);
    }
    Ok(())
}

/// A session begins within five milliseconds while every backend hangs and none of them is asked.
#[test]
fn session_begins_within_5_ms_while_backends_hang() -> anyhow::Result<()> {
    // Servers that accept connections and never respond.
    let silent: Vec<_> = (0..5)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()?;
    let backends: Vec<_> = silent
        .iter()
        .enumerate()
        .map(|(number, listener)| {
            anyhow::Ok((
                format!("b{number}"),
                format!("http://{}/mcp", listener.local_addr()?),
            ))
        })
        .collect::<Result<_, _>>()?;
    let named: Vec<_> = backends.iter().map(|(name, url)| (&**name, &**url)).collect();
    let gateway = Recipe::in_memory(&named)?.start()?;
    let asked = || {
        let mut asked = 0;
        for listener in &silent {
            listener.set_nonblocking(true)?;
            while listener.accept().is_ok() {
                asked += 1;
            }
        }
        anyhow::Ok(asked)
    };
    // The gateway runs discovery by itself.
    asked()?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        let opened = http_client::initialize(gateway.mcp)?;
        times.push(started.elapsed());
        assert_eq!(opened.status, 200, "{}", opened.text());
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    assert!(median < Duration::from_millis(5), "{median:?}");
    let asked = asked()?;
    assert!(asked < 50, "200 sessions, and {asked} connections to backends");
    Ok(())
}

/// A silent stream sends a comment every 15 s.
#[test]
fn silent_streams_send_keep_alive_every_15_s() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let gateway = Recipe::new(&[("fixture", &test_server.url)])?.start()?;
    let session = Session::open(gateway.mcp)?;
    let mut own = Stream::get(gateway.mcp, &session, None)?;
    let began = Instant::now();
    let mut call = Stream::call(
        gateway.mcp,
        &session,
        &json!("slow"),
        "fixture_sleep",
        &json!({"ms": 17_000}),
    )?;
    for stream in [&mut own, &mut call] {
        assert_eq!(stream.comment()?, "keep-alive");
        let silence = began.elapsed().as_secs_f32();
        assert!((14.0..16.9).contains(&silence), "{silence} s");
    }
    let answer = call.message()?;
    assert_eq!(
        answer["result"]["content"][0]["text"], "slept 17000 ms",
        "{answer}"
    );
    Ok(())
}
