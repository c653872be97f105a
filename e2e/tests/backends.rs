//! The configuration of a backend: each field is changed, and its effect is seen with a real server.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmcp_crds::config::{BackendConfig, Duration as Span, HeaderSource};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::{self, Answer, Session};
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::process::Signal;

const PATIENCE: Duration = Duration::from_secs(15);
/// Longer than any test may take.
const FOR_EVER: u64 = 600_000;

/// A gateway in front of the backend `fixture`, which `configure` configures.
fn gateway(url: &str, configure: impl FnOnce(&mut BackendConfig)) -> anyhow::Result<(Recipe, Gateway)> {
    let mut recipe = Recipe::new(&[("fixture", url)])?;
    if let Some(hot) = &mut recipe.config.hot {
        configure(&mut hot.backends[0]);
    }
    let gateway = recipe.start()?;
    Ok((recipe, gateway))
}

fn faults(test_server: &TestServer, rule: &Value) -> anyhow::Result<()> {
    test_server.admin("POST", "/faults", rule)
}

/// The text of a tool's result that says `isError`.
fn tool_error(answer: &Answer) -> anyhow::Result<String> {
    let message = answer.message()?;
    assert_eq!(message["result"]["isError"], true, "{message}");
    let text = message["result"]["content"][0]["text"].as_str();
    Ok(text.unwrap_or_default().to_owned())
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}

/// A call ends at its deadline with an error for its id, and the backend gets a cancellation.
#[test]
fn call_ends_at_deadline_and_backend_is_cancelled() -> anyhow::Result<()> {
    for arguments in [&["--json-response"][..], &[]] {
        let test_server = TestServer::start(arguments)?;
        let (_recipe, gateway) = gateway(&test_server.url, |backend| {
            backend.timeouts.call = Span::from_secs(1);
        })?;
        let session = Session::open(gateway.mcp)?;
        let answer = session.call_as(7, gateway.mcp, "fixture_sleep", &json!({"ms": FOR_EVER}))?;
        assert_eq!(answer.message()?["id"], 7);
        let text = tool_error(&answer)?;
        assert_says(
            &text,
            &["fixture", "did not answer within 1 s", "may have been executed"],
        );
        wait::until("the backend is told of the cancellation", PATIENCE, || {
            anyhow::ensure!(test_server.stats()?.cancelled == 1, "{:?}", test_server.stats()?);
            Ok(())
        })?;
        // The session still works.
        let echo = session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?;
        assert_eq!(echo.tool_text()?, "hi");
        assert_eq!(test_server.initializes("http-client")?, 1);
    }
    Ok(())
}

/// A stream that the gateway buffers for its client is cancelled at the backend when its deadline is over.
#[test]
fn late_buffered_stream_is_cancelled_at_backend() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let (_recipe, gateway) = gateway(&test_server.url, |backend| {
        backend.timeouts.call = Span::from_secs(1);
    })?;
    let session = Session::open(gateway.mcp)?;
    let params = json!({"name": "fixture_stream_progress", "arguments": {"steps": 1000, "ms": 200}, "_meta": {"progressToken": "p"}});
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/json"),
        ("mcp-session-id", &*session.id),
    ];
    let answer = http_client::exchange(gateway.mcp, "POST", "/mcp", &headers, call.to_string().as_bytes())?;
    assert_says(&tool_error(&answer)?, &["did not answer within 1 s"]);
    wait::until("the backend is told of the cancellation", PATIENCE, || {
        anyhow::ensure!(test_server.stats()?.cancelled == 1, "{:?}", test_server.stats()?);
        Ok(())
    })
}

/// Sends a call and does not read its response.
fn call_unread(
    gateway: &Gateway,
    session: &Session,
    tool: &str,
    arguments: &Value,
) -> anyhow::Result<TcpStream> {
    let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": "p"}});
    let body =
        json!({"jsonrpc": "2.0", "id": "unread", "method": "tools/call", "params": params}).to_string();
    // The kernels' buffers take little of it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let mut stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(8192)?;
        socket.connect(gateway.mcp).await?.into_std()
    })?;
    stream.set_nonblocking(false)?;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\naccept: application/json, \
         text/event-stream\r\nmcp-session-id: {}\r\ncontent-length: {}\r\n\r\n",
        gateway.mcp,
        session.id,
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    Ok(stream)
}

/// A call whose response is not read ends at its deadline and frees its concurrency permit.
#[test]
fn unread_call_ends_at_deadline_and_frees_its_permit() -> anyhow::Result<()> {
    // An answer as JSON, one as a single event, and a stream whose end never comes.
    let (large, endless) = (json!({"bytes": 15_000_000}), json!({"steps": 1_000_000, "ms": 0}));
    for (arguments, tool, parameters, is_cancelled) in [
        (&["--json-response"][..], "fixture_big", &large, false),
        (&[], "fixture_big", &large, false),
        (&[], "fixture_stream_progress", &endless, true),
    ] {
        let test_server = TestServer::start(arguments)?;
        let (_recipe, gateway) = gateway(&test_server.url, |backend| {
            backend.timeouts.call = Span::from_secs(3);
            backend.concurrency.limit = 1;
            backend.concurrency.wait = Span::from_millis(1);
        })?;
        let (session, other) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
        let echo = || other.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}));
        assert_eq!(echo()?.tool_text()?, "hi");
        let unread = call_unread(&gateway, &session, tool, parameters)?;
        // A request to the backend would take the permit.
        wait::until("it has the only place", PATIENCE, || {
            let running = gateway.metric("vmcp_backend_requests_in_flight", "backend=\"fixture\"")?;
            anyhow::ensure!(running > 0.5, "nothing runs");
            Ok(())
        })?;
        wait::until("its place is free", PATIENCE, || echo()?.tool_text())?;
        if is_cancelled {
            wait::until("the backend is told of the cancellation", PATIENCE, || {
                anyhow::ensure!(test_server.stats()?.cancelled == 1, "{:?}", test_server.stats()?);
                Ok(())
            })?;
        }
        wait::until("nothing of it is left", PATIENCE, || {
            let running = gateway.metric("vmcp_requests_in_flight", "")?;
            anyhow::ensure!(running < 0.5, "{running} requests run");
            Ok(())
        })?;
        drop(unread);
    }
    Ok(())
}

/// A deadline per tool replaces the deadline of the backend.
#[test]
fn tool_has_its_own_deadline() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let (_recipe, gateway) = gateway(&test_server.url, |backend| {
        backend.timeouts.call = Span::from_secs(1);
        let deadlines = [("sleep", 3600), ("stream_*", 1)];
        backend.tools.deadlines = deadlines
            .map(|(tool, secs)| (tool.to_owned(), Span::from_secs(secs)))
            .into();
    })?;
    let session = Session::open(gateway.mcp)?;
    let slept = session.call(gateway.mcp, "fixture_sleep", &json!({"ms": 2500}))?;
    assert_eq!(slept.tool_text()?, "slept 2500 ms");
    let steps = json!({"steps": 1, "ms": FOR_EVER});
    let cut = session.call(gateway.mcp, "fixture_stream_progress", &steps)?;
    assert_says(&tool_error(&cut)?, &["within 1 s"]);
    Ok(())
}

/// Progress restarts the deadline of a call only where that is configured, up to the maximum.
#[test]
fn progress_restarts_deadline_if_configured() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    for extend in [false, true] {
        let (_recipe, gateway) = gateway(&test_server.url, |backend| {
            backend.timeouts.call = Span::from_secs(2);
            backend.timeouts.extend_on_progress = extend;
        })?;
        let session = Session::open(gateway.mcp)?;
        let steps = json!({"steps": 10, "ms": 400});
        let mut stream = Stream::call(
            gateway.mcp,
            &session,
            &json!(1),
            "fixture_stream_progress",
            &steps,
        )?;
        let mut progress = 0;
        let answer = loop {
            let message = stream.message()?;
            if message["id"] == 1 {
                break message;
            }
            assert_eq!(message["method"], "notifications/progress");
            progress += 1;
        };
        let failed = answer["result"]["isError"] == true;
        assert_eq!(failed, !extend, "extend_on_progress: {extend}: {answer}");
        assert_eq!(progress == 10, extend, "{progress} reports of progress");
    }
    Ok(())
}

/// A backend that sends no response head, or stops within a response, is abandoned after the configured time.
#[test]
fn silent_backend_is_abandoned() -> anyhow::Result<()> {
    let test_server = TestServer::start(&["--json-response"])?;
    let (_recipe, gateway) = gateway(&test_server.url, |backend| {
        backend.timeouts.first_byte = Some(Span::from_millis(700));
        backend.timeouts.idle = Span::from_millis(400);
    })?;
    let session = Session::open(gateway.mcp)?;
    for (fault, expected) in [
        ("hang", "did not answer within 0.7 s"),
        (
            "sse_without_end",
            "paused for more than 0.4 s in the middle of its answer",
        ),
    ] {
        faults(&test_server, &json!({fault: true, "only_method": "tools/call"}))?;
        let answer = session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?;
        assert_says(
            &tool_error(&answer)?,
            &["fixture", expected, "may have been executed"],
        );
    }
    Ok(())
}

#[test]
fn connect_timeout_abandons_backend() -> anyhow::Result<()> {
    // A server that accepts connections and sends no TLS message.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let url = format!("https://{}/mcp", silent.local_addr()?);
    let (_recipe, gateway) = gateway(&url, |backend| {
        backend.timeouts.connect = Span::from_millis(300);
    })?;
    let session = Session::open(gateway.mcp)?;
    let started = Instant::now();
    let answer = session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?;
    assert_says(
        &tool_error(&answer)?,
        &[
            "fixture",
            "cannot be reached",
            "no connection within 0.3 s",
            "not executed",
        ],
    );
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    Ok(())
}

/// A backend gets its configured headers and the client's passed headers, and no others.
#[test]
fn backend_gets_configured_and_passed_headers_only() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let secrets = tempfile::tempdir()?;
    let file = secrets.path().join("key");
    std::fs::write(&file, "s3cret-of-the-file\n")?;
    let mut recipe = Recipe::new(&[("fixture", &test_server.url)])?;
    let token = ("BACKEND_TOKEN".to_owned(), "s3cret-of-the-environment".to_owned());
    recipe.environment.extend([token]);
    if let Some(hot) = &mut recipe.config.hot {
        let from_env = HeaderSource {
            env: Some("BACKEND_TOKEN".to_owned()),
            prefix: "Bearer ".to_owned(),
            ..HeaderSource::default()
        };
        let from_file = HeaderSource {
            file: Some(file.clone()),
            ..HeaderSource::default()
        };
        let of_config = HeaderSource {
            value: Some("eu-west-1".to_owned()),
            ..HeaderSource::default()
        };
        let headers = [
            ("Authorization", from_env),
            ("X-Key", from_file),
            ("X-Region", of_config),
        ];
        hot.backends[0].headers = headers.map(|(name, source)| (name.to_owned(), source)).into();
        hot.backends[0].pass_headers = vec!["X-Tenant".to_owned()];
    }
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let seen = || -> anyhow::Result<Value> {
        let headers = [
            ("mcp-session-id", &*session.id),
            ("authorization", "Bearer of-the-client"),
            ("cookie", "of=the-client"),
            ("x-tenant", "acme"),
            ("x-key", "of-the-client"),
            ("x-other", "of-the-client"),
            ("te", "trailers"),
        ];
        let params = json!({"name": "fixture_whoami", "arguments": {}});
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let text = http_client::post(gateway.mcp, &headers, &call)?.tool_text()?;
        Ok(serde_json::from_str::<Value>(&text)?["headers"].clone())
    };
    let headers = seen()?;
    assert_eq!(
        headers["authorization"], "Bearer s3cret-of-the-environment",
        "{headers}"
    );
    assert_eq!(headers["x-key"], "s3cret-of-the-file", "{headers}");
    assert_eq!(headers["x-region"], "eu-west-1", "{headers}");
    assert_eq!(headers["x-tenant"], "acme", "{headers}");
    assert!(!headers.to_string().contains("of-the-client"), "{headers}");
    assert_eq!(headers["te"], Value::Null, "{headers}");

    std::fs::write(&file, "another")?;
    wait::until("the file is read again", PATIENCE, || {
        let headers = seen()?;
        anyhow::ensure!(headers["x-key"] == "another", "{headers}");
        Ok(())
    })?;
    for said in [gateway.log()?, serde_json::to_string(&gateway.status(&recipe)?)?] {
        assert!(!said.contains("s3cret"), "{said}");
    }
    Ok(())
}

/// A backend whose configured header has no value fails alone. Other backends work.
#[test]
fn backend_without_header_value_fails_alone() -> anyhow::Result<()> {
    let (one, two) = (TestServer::start(&[])?, TestServer::start(&[])?);
    let secrets = tempfile::tempdir()?;
    let file = secrets.path().join("key");
    let mut recipe = Recipe::new(&[("one", &one.url), ("two", &two.url)])?;
    if let Some(hot) = &mut recipe.config.hot {
        let source = HeaderSource {
            file: Some(file.clone()),
            ..HeaderSource::default()
        };
        hot.backends[0].headers = [("X-Key".to_owned(), source)].into();
    }
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let echo =
        |backend: &str| session.call(gateway.mcp, &format!("{backend}_echo"), &json!({"message": "hi"}));
    assert_eq!(echo("two")?.tool_text()?, "hi");
    assert_says(
        &tool_error(&echo("one")?)?,
        &["one", "x-key", "key cannot be read", "trying again is safe"],
    );
    let error = gateway.status(&recipe)?.backends[0].error.clone();
    assert_says(&error.unwrap_or_default(), &["x-key"]);
    std::fs::write(&file, "a value")?;
    wait::until("the backend is in order", PATIENCE, || echo("one")?.tool_text())?;
    Ok(())
}

/// A server with two tools whose answers are one line of 200 MiB: `json` in JSON, and `events` in a stream.
struct Flood {
    url: String,
}

impl Flood {
    const LINE: usize = 200 << 20;

    fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let url = format!("http://{}/mcp", listener.local_addr()?);
        // Ends with the test process.
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                std::thread::spawn(move || Self::serve(connection));
            }
        });
        Ok(Self { url })
    }

    fn serve(connection: TcpStream) -> anyhow::Result<()> {
        let mut writer = connection.try_clone()?;
        let mut reader = BufReader::new(connection);
        loop {
            let (mut length, mut line) = (0, String::new());
            while reader.read_line(&mut line)? > 2 {
                let lower = line.to_ascii_lowercase();
                if let Some(value) = lower.strip_prefix("content-length:") {
                    length = value.trim().parse()?;
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let Ok(message) = serde_json::from_slice::<Value>(&body) else {
                writer.write_all(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n")?;
                continue;
            };
            let tool = |name| json!({"name": name, "inputSchema": {"type": "object"}});
            let result = match message["method"].as_str() {
                Some("initialize") => {
                    let info = json!({"name": "flood", "version": "1"});
                    json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info})
                }
                Some("tools/list") => json!({"tools": [tool("json"), tool("events")]}),
                Some("tools/call") => return Self::flood(&mut writer, &message),
                _ => {
                    writer.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")?;
                    continue;
                }
            };
            let answer = json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length";
            write!(writer, "{head}: {}\r\n\r\n{answer}", answer.len())?;
        }
    }

    fn flood(writer: &mut TcpStream, message: &Value) -> anyhow::Result<()> {
        let id = &message["id"];
        let (media_type, begin) = match message["params"]["name"].as_str() {
            Some("events") => ("text/event-stream", "data: "),
            _ => ("application/json", ""),
        };
        let answer =
            format!(r#"{begin}{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":""#);
        // The end of the connection ends the body.
        write!(
            writer,
            "HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\nconnection: close\r\n\r\n{answer}"
        )?;
        let piece = [b'x'; 1 << 16];
        for _ in 0..Self::LINE / piece.len() {
            writer.write_all(&piece)?;
        }
        Ok(())
    }
}

/// A response without an end is cut at the size limit, and is not held in memory.
#[test]
fn endless_response_is_cut_and_uses_no_memory() -> anyhow::Result<()> {
    let flood = Flood::start()?;
    let (_recipe, gateway) = gateway(&flood.url, |_| {})?;
    let session = Session::open(gateway.mcp)?;
    let events = session.call_as(7, gateway.mcp, "fixture_events", &json!({}))?;
    let message = events.message()?;
    assert_eq!(
        (&message["id"], &message["result"]["isError"]),
        (&json!(7), &json!(true))
    );
    assert_says(&message.to_string(), &["fixture", "larger than 16777216 bytes"]);
    // A response that has begun cannot become an error: the connection breaks, so that the client does not take the response for complete.
    let cut = session.call(gateway.mcp, "fixture_json", &json!({}));
    assert!(cut.is_err(), "the answer came to an end");
    assert_eq!(gateway.metric("vmcp_answers_unchecked_total", "fixture")?, 1.0);
    assert_eq!(gateway.metric("vmcp_answers_aborted_total", "")?, 1.0);
    let peak = gateway.peak_memory()? >> 20;
    assert!(peak < 128, "{peak} MiB");
    Ok(())
}

/// A response that is larger than `maxAnswerBytes` fails with an error that names the limit.
#[test]
fn response_size_limit_is_configurable() -> anyhow::Result<()> {
    let test_server = TestServer::start(&["--json-response"])?;
    let (_recipe, gateway) = gateway(&test_server.url, |backend| backend.max_answer_bytes = 1_000_000)?;
    let session = Session::open(gateway.mcp)?;
    let big = |bytes: u32| session.call(gateway.mcp, "fixture_big", &json!({"bytes": bytes}));
    assert_eq!(big(900_000)?.tool_text()?.len(), 900_000);
    let text = tool_error(&big(1_100_000)?)?;
    assert_says(
        &text,
        &["fixture", "more than 1000000 bytes", "may have been executed"],
    );
    assert_eq!(gateway.metric("vmcp_answers_unchecked_total", "fixture")?, 1.0);
    assert_eq!(gateway.metric("vmcp_answers_aborted_total", "")?, 0.0);
    Ok(())
}

/// Every fault of a backend becomes an error that names the backend, the fault, and whether a retry is safe.
#[test]
fn every_backend_fault_is_named_in_the_error() -> anyhow::Result<()> {
    const EXECUTED: &str = "may have been executed";
    const SAFE: &str = "trying again is safe";
    let cases = [
        (
            json!({"status": 401}),
            "HTTP status 401; check the credentials",
            SAFE,
        ),
        (
            json!({"status": 403}),
            "HTTP status 403; check the credentials",
            SAFE,
        ),
        (
            json!({"status": 429, "retry_after": 30}),
            "HTTP status 429 and asks to be left alone for 30 s",
            SAFE,
        ),
        (
            json!({"status": 500}),
            "HTTP status 500: The test server was asked to fail",
            EXECUTED,
        ),
        (
            json!({"status": 503}),
            "HTTP status 503: The test server was asked to fail",
            SAFE,
        ),
        (
            json!({"redirect": "https://elsewhere.example/mcp?token=s3cret"}),
            "redirects to https://elsewhere.example,",
            SAFE,
        ),
        (
            json!({"wrong_content_type": true}),
            "content type is text/html",
            EXECUTED,
        ),
        (json!({"not_json": true}), "does not allow", EXECUTED),
        (json!({"wrong_id": true}), "it answers another request", EXECUTED),
        (json!({"two_answers": true}), "does not allow", EXECUTED),
        (
            json!({"truncate": true}),
            "before its answer was complete",
            EXECUTED,
        ),
        (
            json!({"reset": "before_headers"}),
            "before its answer was complete",
            EXECUTED,
        ),
        (
            json!({"reset": "after_headers"}),
            "before its answer was complete",
            EXECUTED,
        ),
    ];
    let test_server = TestServer::start(&["--json-response"])?;
    let (_recipe, gateway) = gateway(&test_server.url, |_| {})?;
    let session = Session::open(gateway.mcp)?;
    let echo = || session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}));
    assert_eq!(echo()?.tool_text()?, "hi");
    for (mut rule, expected, retry) in cases {
        rule["only_method"] = json!("tools/call");
        faults(&test_server, &rule)?;
        let text = tool_error(&echo()?)?;
        assert_says(&text, &["The backend fixture", expected, retry]);
        assert!(!text.contains("s3cret"), "{text}");
        // Other requests get a JSON-RPC error.
        rule["only_method"] = json!("prompts/get");
        faults(&test_server, &rule)?;
        let prompt = json!({"name": "fixture_test_simple_prompt"});
        let answer = session.request(gateway.mcp, "prompts/get", &prompt)?;
        assert_eq!(answer.error_code(), -32603, "{rule}: {}", answer.text());
        assert_says(&answer.text(), &["fixture", retry]);
        test_server.admin("DELETE", "/faults", &json!({}))?;
        assert_eq!(echo()?.tool_text()?, "hi", "after {rule}");
    }
    // The upstream session survived all of it.
    assert_eq!(test_server.initializes("http-client")?, 1);
    Ok(())
}

/// The client gets only the first of two responses on one stream.
#[test]
fn second_response_on_stream_is_dropped() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let (_recipe, gateway) = gateway(&test_server.url, |_| {})?;
    let session = Session::open(gateway.mcp)?;
    faults(
        &test_server,
        &json!({"two_answers": true, "only_method": "tools/call"}),
    )?;
    let answer = session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?;
    assert_eq!(answer.tool_text()?, "hi");
    assert_eq!(
        answer.text().matches("\"result\"").count(),
        1,
        "{}",
        answer.text()
    );
    Ok(())
}

/// A call that the backend rejects with 400 does not cost the upstream session.
#[test]
fn call_rejected_with_400_keeps_upstream_session() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let (_recipe, gateway) = gateway(&test_server.url, |_| {})?;
    let session = Session::open(gateway.mcp)?;
    let count = || {
        session
            .call(gateway.mcp, "fixture_counter", &json!({}))?
            .tool_text()
    };
    assert_eq!(count()?, "1");
    faults(&test_server, &json!({"status": 400, "only_tool": "echo"}))?;
    let refused = session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?;
    assert_says(&tool_error(&refused)?, &["HTTP status 400"]);
    assert_eq!(count()?, "2", "the state at the backend is kept");
    // If the session is really lost, the same status leads to a new one.
    test_server.admin("POST", "/sessions/forget?style=400", &json!({}))?;
    assert_eq!(count()?, "1");
    Ok(())
}

/// A server that uses session ids only since its restart gets a session.
#[test]
fn restarted_server_with_session_ids_gets_session() -> anyhow::Result<()> {
    let mut test_server = TestServer::start(&["--stateless"])?;
    let (_recipe, gateway) = gateway(&test_server.url, |_| {})?;
    let session = Session::open(gateway.mcp)?;
    let echo = || session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}));
    assert_eq!(echo()?.tool_text()?, "hi");
    test_server.restart_with(&[])?;
    assert_eq!(echo()?.tool_text()?, "hi");
    assert_eq!(test_server.initializes("http-client")?, 1);
    Ok(())
}

/// The catalog's own session is deleted with its backend and with the process.
#[test]
fn catalog_session_is_deleted_with_backend_and_process() -> anyhow::Result<()> {
    let (one, two) = (TestServer::start(&[])?, TestServer::start(&[])?);
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("hot.yaml");
    let backend =
        |name: &str, test_server: &TestServer| format!("- {{name: {name}, url: '{}'}}\n", test_server.url);
    std::fs::write(
        &file,
        format!("backends:\n{}{}", backend("one", &one), backend("two", &two)),
    )?;
    let mut recipe = Recipe::new(&[])?;
    recipe.config.hot = None;
    recipe.config.hot_file = Some(file.clone());
    let mut gateway = recipe.start()?;
    assert_eq!((one.stats()?.sessions.len(), two.stats()?.sessions.len()), (1, 1));
    std::fs::write(&file, format!("backends:\n{}", backend("two", &two)))?;
    wait::until("the session at the removed backend is deleted", PATIENCE, || {
        anyhow::ensure!(
            one.stats()?.sessions.is_empty() && one.stats()?.deletes == 1,
            "it is there"
        );
        Ok(())
    })?;
    assert_eq!(two.stats()?.sessions.len(), 1);
    gateway.signal(Signal::TERM)?;
    assert!(gateway.wait_until_ended(PATIENCE)?);
    assert!(two.stats()?.sessions.is_empty() && two.stats()?.deletes == 1);
    Ok(())
}

/// An upstream session is deleted if its handshake fails after `initialize`.
#[test]
fn session_of_failed_handshake_is_deleted() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let (_recipe, gateway) = gateway(&test_server.url, |_| {})?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(test_server.stats()?.sessions.len(), 1, "the catalog's own");
    faults(
        &test_server,
        &json!({"reset": "before_headers", "only_method": "notifications/initialized"}),
    )?;
    let failed = session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?;
    assert_says(
        &tool_error(&failed)?,
        &["ended the connection", "trying again is safe"],
    );
    assert_eq!(
        (test_server.stats()?.sessions.len(), test_server.stats()?.deletes),
        (1, 1)
    );
    Ok(())
}

/// The sessions of a backend that loses them repeatedly are not reopened forever.
#[test]
fn session_losing_backend_is_not_reopened_forever() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let (recipe, gateway) = gateway(&test_server.url, |_| {})?;
    let session = Session::open(gateway.mcp)?;
    let echo = || session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}));
    for _ in 0..4 {
        assert_eq!(echo()?.tool_text()?, "hi");
        test_server.admin("POST", "/sessions/forget?style=404", &json!({}))?;
    }
    assert!(!gateway.status(&recipe)?.backends[0].needs_affinity);
    assert_says(
        &tool_error(&echo()?)?,
        &[
            "fixture",
            "loses its sessions",
            "session affinity",
            "trying again is safe",
        ],
    );
    assert_eq!(
        test_server.initializes("http-client")?,
        4,
        "one session, and three repairs"
    );
    assert!(gateway.status(&recipe)?.backends[0].needs_affinity);
    // Others are not affected.
    let other = Session::open(gateway.mcp)?;
    let hi = other.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?;
    assert_eq!(hi.tool_text()?, "hi");
    Ok(())
}

/// The error of a handshake with an unexpected content type names the content type.
#[test]
fn handshake_error_names_wrong_content_type() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let (_recipe, gateway) = gateway(&test_server.url, |_| {})?;
    let session = Session::open(gateway.mcp)?;
    faults(
        &test_server,
        &json!({"wrong_content_type": true, "only_method": "initialize"}),
    )?;
    let failed = session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?;
    assert_says(
        &tool_error(&failed)?,
        &["its content type is text/html, and neither JSON nor a stream"],
    );
    Ok(())
}
