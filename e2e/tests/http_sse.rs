//! Backends on HTTP+SSE of specification 2024-11-05: they work as over Streamable HTTP, and a lost stream fails only the calls on it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmcp_crds::config::{BackendTransport, Duration as Span};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::Session;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;
use vmcp_external::requires;
use vmcp_external::server;

const PATIENCE: Duration = Duration::from_secs(15);

/// Gateways in front of the one backend `old` at `url`.
fn recipe(url: &str) -> anyhow::Result<Recipe> {
    let mut recipe = Recipe::new(&[("old", url)])?;
    recipe.hot().backends[0].transport = BackendTransport::Sse;
    Ok(recipe)
}

/// A server lists and responds the same over both transports.
#[requires(npm)]
#[test]
fn http_sse_offers_and_answers_like_streamable_http() -> anyhow::Result<()> {
    let (newer, older) = (server::everything()?, server::everything_over_sse()?);
    let direct: SocketAddr = newer
        .url
        .trim_start_matches("http://")
        .trim_end_matches("/mcp")
        .parse()?;
    let gateway = recipe(&older.url)?.start()?;
    // The gateway declares all of these to its backends, and this server lists some tools only to such clients.
    let able = json!({
        "roots": {"listChanged": true}, "sampling": {"context": {}, "tools": {}}, "elicitation": {"form": {}, "url": {}}
    });
    let expected = Session::open_with(direct, "2025-11-25", &able)?;
    let through = Session::open(gateway.mcp)?;
    for (method, prefix) in [
        ("tools/list", "old_"),
        ("prompts/list", "old_"),
        ("resources/list", ""),
        ("resources/templates/list", ""),
    ] {
        let mut names = expected.names(direct, method)?;
        for name in &mut names {
            name.insert_str(0, prefix);
        }
        names.sort();
        let mut offered = through.names(gateway.mcp, method)?;
        offered.sort();
        assert!(!offered.is_empty(), "{method}");
        assert_eq!(offered, names, "{method}");
    }
    for (method, params, name) in [
        (
            "tools/call",
            json!({"name": "echo", "arguments": {"message": "grüezi"}}),
            "name",
        ),
        (
            "tools/call",
            json!({"name": "get-sum", "arguments": {"a": 1.5, "b": 2}}),
            "name",
        ),
        (
            "tools/call",
            json!({"name": "get-tiny-image", "arguments": {}}),
            "name",
        ),
        (
            "tools/call",
            json!({"name": "get-structured-content", "arguments": {"location": "Chicago"}}),
            "name",
        ),
        (
            "tools/call",
            json!({"name": "get-sum", "arguments": {"a": "wrong"}}),
            "name",
        ),
        ("prompts/get", json!({"name": "simple-prompt"}), "name"),
        (
            "prompts/get",
            json!({"name": "args-prompt", "arguments": {"city": "Bern"}}),
            "name",
        ),
        (
            "resources/read",
            json!({"uri": "demo://resource/static/document/architecture.md"}),
            "",
        ),
    ] {
        let direct = expected.request(direct, method, &params)?.outcome()?;
        let mut ours = params.clone();
        if let Some(of) = ours.get(name).and_then(Value::as_str) {
            ours[name] = json!(format!("old_{of}"));
        }
        let through = through.request(gateway.mcp, method, &ours)?.outcome()?;
        assert_eq!(through.get(), direct.get(), "{method} {params}");
    }
    let reference = json!({"type": "ref/prompt", "name": "completable-prompt"});
    let argument = json!({"name": "department", "value": "E"});
    let direct = expected.request(
        direct,
        "completion/complete",
        &json!({"ref": reference, "argument": argument}),
    )?;
    let reference = json!({"type": "ref/prompt", "name": "old_completable-prompt"});
    let through = through.request(
        gateway.mcp,
        "completion/complete",
        &json!({"ref": reference, "argument": argument}),
    )?;
    assert_eq!(through.outcome()?.get(), direct.outcome()?.get());
    Ok(())
}

/// Progress and server requests reach the client of the call.
#[requires(npm)]
#[test]
fn http_sse_progress_and_requests_reach_the_caller() -> anyhow::Result<()> {
    let older = server::everything_over_sse()?;
    let gateway = recipe(&older.url)?.start()?;
    let able = json!({"elicitation": {}, "sampling": {}});
    let session = Session::open_with(gateway.mcp, "2025-11-25", &able)?;
    let arguments = json!({"duration": 1, "steps": 4});
    let long = "old_trigger-long-running-operation";
    let mut call = Stream::call(gateway.mcp, &session, &json!(1), long, &arguments)?;
    for step in 1..=4 {
        let (_, message) = call.await_method("notifications/progress")?;
        assert_eq!(message["params"]["progress"], step, "{message}");
        assert_eq!(message["params"]["progressToken"], "of 1", "{message}");
    }
    assert_eq!(call.message()?["id"], 1);

    for (tool, method, answer) in [
        (
            "old_trigger-elicitation-request",
            "elicitation/create",
            json!({"action": "decline"}),
        ),
        (
            "old_trigger-sampling-request",
            "sampling/createMessage",
            json!({"role": "assistant", "model": "none", "content": {"type": "text", "text": "of the client"}}),
        ),
    ] {
        let mut call = Stream::call(gateway.mcp, &session, &json!(2), tool, &json!({"prompt": "x"}))?;
        let (_, asked) = call.await_method(method)?;
        let reply = json!({"jsonrpc": "2.0", "id": asked["id"], "result": answer});
        assert_eq!(session.post(gateway.mcp, &reply)?.status, 202);
        let result = call.message()?;
        assert_eq!(result["id"], 2, "{result}");
        let said = result.to_string();
        assert!(
            said.contains("declined") || said.contains("of the client"),
            "{said}"
        );
    }
    Ok(())
}

/// A scriptable HTTP+SSE server.
#[derive(Clone)]
struct Server {
    url: String,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// The open streams, by the number of their session; the gateway's own is there, too.
    streams: HashMap<u32, TcpStream>,
    opened: u32,
    /// The sessions in which a client called itself `http-client`.
    clients: Vec<u32>,
    cancelled: Vec<Value>,
    /// The host of the endpoint for messages, if it is not this server.
    elsewhere: Option<String>,
    /// Tools that it offers beside those that it always has.
    more_tools: Vec<String>,
    /// The content type of its stream, if it is not the right one.
    content_type: Option<String>,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    fn start_at(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let server = Self {
            url: format!("http://{}/sse", listener.local_addr()?),
            seen: Arc::default(),
        };
        let serving = server.clone();
        // Ends with the test process.
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let server = serving.clone();
                std::thread::spawn(move || server.serve(connection));
            }
        });
        Ok(server)
    }

    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn serve(&self, connection: TcpStream) -> anyhow::Result<()> {
        let mut writer = connection.try_clone()?;
        let mut reader = BufReader::new(connection);
        loop {
            let (mut length, mut first, mut line) = (0, String::new(), String::new());
            while reader.read_line(&mut line)? > 2 {
                if first.is_empty() {
                    first = line.clone();
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse()?;
                }
                line.clear();
            }
            anyhow::ensure!(!first.is_empty(), "the connection has ended");
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            if first.starts_with("GET") {
                return self.open(writer);
            }
            let session = first
                .split("session=")
                .nth(1)
                .and_then(|rest| rest.split(' ').next());
            let session: u32 = session.unwrap_or_default().parse()?;
            writer.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")?;
            self.take(session, &serde_json::from_slice(&body)?)?;
        }
    }

    fn open(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        self.with(|seen| {
            let kind = seen.content_type.as_deref().unwrap_or("text/event-stream");
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            seen.opened += 1;
            let place = seen.elsewhere.clone().unwrap_or_default();
            let endpoint = format!(
                "event: endpoint\ndata: {place}/message?session={}\n\n",
                seen.opened
            );
            stream.write_all(endpoint.as_bytes())?;
            seen.streams.insert(seen.opened, stream);
            Ok(())
        })
    }

    fn take(&self, session: u32, message: &Value) -> anyhow::Result<()> {
        let result = match message["method"].as_str() {
            Some("initialize") => {
                if message["params"]["clientInfo"]["name"] == "http-client" {
                    self.with(|seen| seen.clients.push(session));
                }
                json!({
                    "protocolVersion": "2024-11-05", "capabilities": {"tools": {"listChanged": true}},
                    "serverInfo": {"name": "old", "version": "1"}
                })
            }
            Some("tools/list") => {
                let mut names = ["echo", "hang", "drop"].map(str::to_owned).to_vec();
                names.extend(self.with(|seen| seen.more_tools.clone()));
                let tool = |name: &String| json!({"name": name, "inputSchema": {"type": "object"}});
                json!({"tools": names.iter().map(tool).collect::<Vec<_>>()})
            }
            Some("tools/call") => match message["params"]["name"].as_str() {
                Some("echo") => json!({"content": [{"type": "text", "text": session.to_string()}]}),
                Some("drop") => return self.drop_stream(session),
                _ => return Ok(()),
            },
            Some("notifications/cancelled") => {
                self.with(|seen| seen.cancelled.push(message["params"]["requestId"].clone()));
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.say(
            session,
            &json!({"jsonrpc": "2.0", "id": message["id"], "result": result}),
        )
    }

    fn say(&self, session: u32, message: &Value) -> anyhow::Result<()> {
        self.with(|seen| match seen.streams.get_mut(&session) {
            Some(stream) => Ok(stream.write_all(format!("event: message\ndata: {message}\n\n").as_bytes())?),
            None => Ok(()),
        })
    }

    fn drop_stream(&self, session: u32) -> anyhow::Result<()> {
        let stream = self.with(|seen| seen.streams.remove(&session));
        stream.map_or(Ok(()), |stream| Ok(stream.shutdown(std::net::Shutdown::Both)?))
    }

    /// How many of the streams that were opened for a client are open, as their other ends see it.
    fn clients_open(&self) -> usize {
        self.with(|seen| {
            let open = |number: &&u32| {
                let Some(stream) = seen.streams.get(number) else {
                    return false;
                };
                let mut byte = [0];
                let unread = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut byte));
                stream.set_nonblocking(false).ok();
                !matches!(unread, Ok(0))
                    && !unread.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
            };
            seen.clients.iter().filter(open).count()
        })
    }
}

/// The session at the server in which `echo` was called.
fn echo(session: &Session, gateway: &Gateway) -> anyhow::Result<String> {
    session.call(gateway.mcp, "old_echo", &json!({}))?.tool_text()
}

/// A lost stream fails its calls, and the next call opens another stream.
#[test]
fn lost_sse_stream_fails_its_calls_and_reopens() -> anyhow::Result<()> {
    let server = Server::start()?;
    let gateway = recipe(&server.url)?.start()?;
    let (session, other) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    let (first, others) = (echo(&session, &gateway)?, echo(&other, &gateway)?);
    assert_eq!(
        echo(&session, &gateway)?,
        first,
        "one stream for all calls of a session"
    );
    assert_ne!(first, others, "and another for another session");
    let mut hanging = Stream::call(gateway.mcp, &session, &json!(7), "old_hang", &json!({}))?;
    let dropped = session
        .call_as(8, gateway.mcp, "old_drop", &json!({}))?
        .message()?;
    for message in [hanging.message()?, dropped] {
        assert_eq!(message["result"]["isError"], true, "{message}");
        let text = message["result"]["content"][0]["text"]
            .as_str()
            .unwrap_or_default();
        assert!(
            text.contains("old") && text.contains("may have been executed"),
            "{text}"
        );
    }
    assert_ne!(echo(&session, &gateway)?, first);
    assert_eq!(echo(&other, &gateway)?, others, "nobody else was disturbed");
    Ok(())
}

/// Cancellations and the end of a session reach the server.
#[test]
fn cancellation_and_session_end_reach_http_sse_server() -> anyhow::Result<()> {
    let server = Server::start()?;
    let mut recipe = recipe(&server.url)?;
    if let Some(hot) = &mut recipe.config.hot {
        hot.backends[0].timeouts.call = Span::from_secs(1);
    }
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let answer = session
        .call_as(7, gateway.mcp, "old_hang", &json!({}))?
        .message()?;
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    wait::until("the server is told", PATIENCE, || {
        let cancelled = server.with(|seen| seen.cancelled.clone());
        anyhow::ensure!(cancelled == [json!(7)], "{cancelled:?}");
        Ok(())
    })?;
    assert_eq!(server.clients_open(), 1);
    session.delete(gateway.mcp)?;
    wait::until("the stream is closed", PATIENCE, || {
        anyhow::ensure!(server.clients_open() == 0, "it is open");
        Ok(())
    })
}

/// A listening client keeps getting messages when the gateway has to open a new HTTP+SSE stream.
#[test]
fn listening_client_is_moved_to_new_sse_stream() -> anyhow::Result<()> {
    let server = Server::start()?;
    let gateway = recipe(&server.url)?.start()?;
    let session = Session::open(gateway.mcp)?;
    echo(&session, &gateway)?;
    let mut own = Stream::get(gateway.mcp, &session, None)?;
    let log = |text: &str| json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "error", "data": text}});
    let say = |text: &str| {
        let last = server
            .with(|seen| seen.clients.last().copied())
            .unwrap_or_default();
        server.say(last, &log(text))
    };
    let mut hear = |text: &str| {
        // The gateway gets it once its stream is open, which happens after the handshake. Earlier messages are lost.
        std::thread::scope(|scope| {
            let heard = scope.spawn(|| {
                loop {
                    let (_, message) = own.await_method("notifications/message")?;
                    if message["params"]["data"] == text {
                        return anyhow::Ok(());
                    }
                }
            });
            while !heard.is_finished() {
                say(text)?;
                std::thread::sleep(Duration::from_millis(50));
            }
            heard.join().map_err(|_| anyhow::anyhow!("the listener failed"))?
        })
    };
    hear("first")?;
    let lost = server.with(|seen| seen.clients.len());
    server.drop_stream(server.with(|seen| seen.clients[lost - 1]))?;
    wait::until("another stream is opened", PATIENCE, || {
        anyhow::ensure!(server.with(|seen| seen.clients.len()) > lost, "not yet");
        Ok(())
    })?;
    hear("second")
}

/// `list_changed` of the server triggers a discovery, and clients are notified.
#[test]
fn http_sse_list_change_reaches_clients() -> anyhow::Result<()> {
    let server = Server::start()?;
    let gateway = recipe(&server.url)?.start()?;
    let session = Session::open(gateway.mcp)?;
    let mut own = Stream::get(gateway.mcp, &session, None)?;
    server.with(|seen| seen.more_tools.push("later".to_owned()));
    // The gateway's own session was the first, and is the only one.
    assert_eq!(server.with(|seen| seen.opened), 1);
    server.say(
        1,
        &json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}),
    )?;
    own.await_method("notifications/tools/list_changed")?;
    let names = session.names(gateway.mcp, "tools/list")?;
    assert!(names.contains(&"old_later".to_owned()), "{names:?}");
    Ok(())
}

/// The gateway runs discovery again when the HTTP+SSE stream of its catalog is lost.
#[test]
fn lost_catalog_stream_triggers_discovery() -> anyhow::Result<()> {
    let server = Server::start()?;
    let gateway = recipe(&server.url)?.start()?;
    let looks = || gateway.metric("vmcp_upstream_handshakes", "old");
    let before = looks()?;
    // The gateway's own session is the only one.
    server.drop_stream(1)?;
    wait::until("the gateway's own stream is opened again", PATIENCE, || {
        anyhow::ensure!(looks()? > before, "not yet");
        Ok(())
    })
}

/// Messages are posted to the configured server only.
#[test]
fn messages_are_not_posted_to_another_origin() -> anyhow::Result<()> {
    let server = Server::start()?;
    server.with(|seen| seen.elsewhere = Some("http://127.0.0.1:9".to_owned()));
    let recipe = recipe(&server.url)?;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let answer = session.call(gateway.mcp, "old_echo", &json!({}))?.message()?;
    let text = answer["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_default();
    assert!(
        text.contains("its endpoint is at another server, 127.0.0.1"),
        "{answer}"
    );
    assert!(text.contains("trying again is safe"), "{text}");
    Ok(())
}

/// The error for a response that is not a stream names its content type.
#[test]
fn non_stream_is_reported_with_content_type() -> anyhow::Result<()> {
    let server = Server::start()?;
    server.with(|seen| seen.content_type = Some("text/html".to_owned()));
    let gateway = recipe(&server.url)?.start()?;
    let session = Session::open(gateway.mcp)?;
    let answer = session.call(gateway.mcp, "old_echo", &json!({}))?.message()?;
    let text = answer["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_default();
    assert!(
        text.contains("its content type is text/html, and no stream of events"),
        "{answer}"
    );
    Ok(())
}

/// Two gateways that share `redis`, whose sessions expire after `seconds` without use.
fn short_lived(url: &str, redis: &Redis, seconds: u64) -> anyhow::Result<(Gateway, Gateway)> {
    let mut recipe = recipe(url)?;
    recipe.use_redis(redis.address).ttl = Span::from_secs(seconds);
    Ok((recipe.start()?, recipe.start()?))
}

/// A stream stays open while its session is used on any replica, and is closed when the session expires.
#[requires(redis)]
#[test]
fn sse_stream_stays_open_while_session_is_used() -> anyhow::Result<()> {
    const TTL: u64 = 4;
    let (server, redis) = (Server::start()?, Redis::start(None)?);
    let (one, two) = short_lived(&server.url, &redis, TTL)?;
    let (used, unused) = (Session::open(one.mcp)?, Session::open(one.mcp)?);
    let (first, _) = (echo(&used, &one)?, echo(&unused, &one)?);
    assert_eq!(server.clients_open(), 2);
    // The used session is used on the other gateway, and not with this server.
    wait::until("the stream of the unused one is closed", PATIENCE, || {
        used.list(two.mcp, "tools/list")?;
        anyhow::ensure!(server.clients_open() == 1, "it is open");
        Ok(())
    })?;
    let until = Instant::now() + Duration::from_secs(2 * TTL);
    while Instant::now() < until {
        used.list(two.mcp, "tools/list")?;
        assert_eq!(server.clients_open(), 1);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(echo(&used, &one)?, first, "it is the same stream");
    Ok(())
}

/// A stream and its messages use the same address of the host.
#[test]
fn sse_stream_and_posts_share_one_address() -> anyhow::Result<()> {
    let port = vmcp_e2e::ports::free()?.port();
    let addresses = [1, 2, 3].map(|last| IpAddr::from([127, 0, 0, last]));
    let servers = addresses.map(|address| Server::start_at((address, port).into()));
    let mut recipe = recipe(&format!("http://replicas.test:{port}/sse"))?;
    let backend = &mut recipe.hot().backends[0];
    backend.addresses = addresses.to_vec();
    backend.timeouts.call = Span::from_secs(5);
    let gateway = recipe.start()?;
    for _ in 0..12 {
        let session = Session::open(gateway.mcp)?;
        let first = echo(&session, &gateway)?;
        assert_eq!(echo(&session, &gateway)?, first);
    }
    let open = servers
        .iter()
        .flatten()
        .filter(|server| server.clients_open() > 0);
    assert!(open.count() > 1, "sessions spread");
    Ok(())
}

/// Every replica opens its own HTTP+SSE stream for a session.
#[requires(redis)]
#[test]
fn every_replica_opens_its_own_sse_stream() -> anyhow::Result<()> {
    let (server, redis) = (Server::start()?, Redis::start(None)?);
    let mut recipe = recipe(&server.url)?;
    recipe.use_redis(redis.address);
    let (one, two) = (recipe.start()?, recipe.start()?);
    let session = Session::open(one.mcp)?;
    let (at_one, at_two) = (echo(&session, &one)?, echo(&session, &two)?);
    assert_ne!(at_one, at_two);
    assert_eq!((echo(&session, &one)?, echo(&session, &two)?), (at_one, at_two));
    Ok(())
}
