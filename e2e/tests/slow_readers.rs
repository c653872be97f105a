//! Clients that do not read their responses do not keep other clients from the same backend.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};
use vmcp_crds::config::{CatalogScope, LimitsConfig};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::Session;
use vmcp_e2e::scripted_server::{Received, Reply, ScriptedServer, usual};

const MIB: u64 = 1024 * 1024;
/// The size limit of a buffered JSON response.
const JSON_BYTES: usize = 250 * 1024;
/// More than the kernel's buffers of a connection take.
const EVENT_BYTES: usize = 3 * 1024 * 1024;
/// A little less than the size limit of a page.
const PAGE_BYTES: usize = 1000 * 1024;
/// How long the honest client is served while the others hold memory.
const SERVED_FOR: Duration = Duration::from_secs(4);
/// How long that may take to begin.
const LIMIT: Duration = Duration::from_secs(30);

/// A gateway in front of a server with an `echo`, and with the answers `json` and `event`, which are large.
struct Scene {
    gateway: Gateway,
    _server: ScriptedServer,
}

impl Scene {
    /// With a budget of so many bytes, a quarter of which is for the answers of the server.
    fn start(budget: u64) -> anyhow::Result<Self> {
        Self::start_with(budget, CatalogScope::Shared, answer)
    }

    fn start_with(
        budget: u64,
        catalog: CatalogScope,
        answer: impl Fn(&Received) -> Option<Reply> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let server = ScriptedServer::start(answer)?;
        let mut recipe = Recipe::in_memory(&[("a", &server.url)])?;
        let hot = recipe.hot();
        hot.limits = LimitsConfig {
            buffered_bytes: Some(budget),
            ..LimitsConfig::default()
        };
        for backend in &mut hot.backends {
            backend.catalog = catalog;
        }
        let gateway = recipe.start()?;
        Ok(Self {
            gateway,
            _server: server,
        })
    }

    /// A connection on which so many calls of `tool` have been sent, and nothing is read.
    fn unread(&self, tool: &str, calls: usize) -> anyhow::Result<TcpStream> {
        let session = Session::open(self.gateway.mcp)?;
        self.unread_in(&session, (0..calls).map(|id| call(id, tool)))
    }

    /// A connection on which these requests have been sent in `session`, and nothing is read.
    fn unread_in(
        &self,
        session: &Session,
        requests: impl Iterator<Item = Value>,
    ) -> anyhow::Result<TcpStream> {
        let mcp = self.gateway.mcp;
        let mut stream = TcpStream::connect(mcp)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        for request in requests {
            let body = request.to_string();
            let head = format!(
                "POST /mcp HTTP/1.1\r\nhost: {mcp}\r\ncontent-type: application/json\r\nmcp-session-id: {}\r\n\
                 accept: application/json, text/event-stream\r\ncontent-length: {}\r\n\r\n",
                session.id,
                body.len()
            );
            stream.write_all(format!("{head}{body}").as_bytes())?;
        }
        Ok(stream)
    }

    /// Checks that an honest client is served for the whole test while new clients that do not read keep connecting.
    fn serves_beside(&self, tool: &str, calls: usize, clients: usize) -> anyhow::Result<()> {
        // More than the rest of the budget when no further response of theirs fits.
        let message = "x".repeat(150 * 1024);
        let honest = Session::open(self.gateway.mcp)?;
        let mut unread = Vec::new();
        for _ in 0..clients {
            unread.push(self.unread(tool, calls)?);
        }
        let in_the_way = || self.gateway.metric("vmcp_unread_answers_closed_total", "");
        let began = Instant::now();
        let mut until = None;
        for number in 1.. {
            let echo = honest.call(self.gateway.mcp, "a_echo", &json!({"message": message}))?;
            ensure!(
                echo.tool_text()? == message,
                "answer {number}: {:.300}",
                echo.text()
            );
            if number % 10 == 0 {
                unread.push(self.unread(tool, calls)?);
            }
            if until.is_none() && in_the_way()? > 0.0 {
                until = Some(Instant::now() + SERVED_FOR);
            }
            if until.is_some_and(|until| until < Instant::now()) {
                break;
            }
            ensure!(until.is_some() || began.elapsed() < LIMIT, "nobody is in the way");
        }
        Ok(())
    }
}

fn answer(request: &Received) -> Option<Reply> {
    let result = |bytes: usize| json!({"content": [{"type": "text", "text": "y".repeat(bytes)}]});
    match (request.method(), request.name()) {
        ("tools/list", _) => {
            let tool = |name| json!({"name": name, "inputSchema": {"type": "object"}});
            Some(request.result(&json!({"tools": [tool("echo"), tool("json"), tool("event")]})))
        }
        ("tools/call", "json") => Some(request.result(&result(JSON_BYTES))),
        ("tools/call", "event") => {
            let message =
                json!({"jsonrpc": "2.0", "id": request.message["id"], "result": result(EVENT_BYTES)});
            let event = format!("event: message\ndata: {message}\n\n");
            Some(Reply::new(200, "text/event-stream", event.as_bytes()))
        }
        _ => None,
    }
}

fn call(id: usize, tool: &str) -> Value {
    let params = json!({"name": format!("a_{tool}"), "arguments": {}});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}

/// A reading client is served while many clients do not read their buffered responses.
#[test]
fn unread_responses_are_closed_for_read_ones() -> anyhow::Result<()> {
    Scene::start(16 * MIB)?.serves_beside("json", 4, 24)
}

/// The same where the answers are events of a stream.
#[test]
fn unread_events_are_closed_for_read_responses() -> anyhow::Result<()> {
    Scene::start(16 * MIB)?.serves_beside("event", 1, 4)
}

/// The session's own list: as large as a page may be.
fn own_list(request: &Received) -> Option<Reply> {
    let session = request.header("mcp-session-id").unwrap_or_default();
    match request.method() {
        "initialize" => {
            static SESSIONS: AtomicUsize = AtomicUsize::new(0);
            let session = SESSIONS.fetch_add(1, Ordering::Relaxed).to_string();
            Some(usual(request).with("mcp-session-id", &session))
        }
        "tools/list" => {
            let tool = |number: usize| {
                let description = format!("of session {session}: {}", "z".repeat(50 * 1024));
                json!({"name": format!("t{number}"), "description": description, "inputSchema": {"type": "object"}})
            };
            let tools: Vec<_> = (0..PAGE_BYTES / (50 * 1024)).map(tool).collect();
            Some(request.result(&json!({"tools": tools})))
        }
        _ => None,
    }
}

/// Clients that do not read their session's own list do not keep others from theirs.
#[test]
fn unread_pages_are_closed_for_read_ones() -> anyhow::Result<()> {
    let scene = Scene::start_with(32 * MIB, CatalogScope::PerSession, own_list)?;
    let mcp = scene.gateway.mcp;
    let session = Session::open(mcp)?;
    let list = |id: usize| json!({"jsonrpc": "2.0", "id": id, "method": "tools/list"});
    let in_the_way = || scene.gateway.metric("vmcp_unread_answers_closed_total", "");
    let began = Instant::now();
    let (mut unread, mut until) = (Vec::new(), None);
    while until.is_none_or(|until| until > Instant::now()) {
        for _ in 0..if unread.len() < 12 { 12 } else { 1 } {
            unread.push(scene.unread_in(&session, (0..6).map(list))?);
        }
        let listed = session.request(mcp, "tools/list", &json!({}))?;
        ensure!(
            listed.status == 200 && listed.body.len() > PAGE_BYTES * 9 / 10,
            "{} {:.300}",
            listed.status,
            listed.text()
        );
        if until.is_none() && in_the_way()? > 0.0 {
            until = Some(Instant::now() + SERVED_FOR);
        }
        ensure!(until.is_some() || began.elapsed() < LIMIT, "nobody is in the way");
    }
    Ok(())
}

/// A slowly reading client gets everything, although others do not read at all.
#[test]
fn slow_but_reading_client_is_kept() -> anyhow::Result<()> {
    let scene = Scene::start(32 * MIB)?;
    let mut slow = scene.unread("event", 1)?;
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let (mut read, mut buffer) = (0, vec![0; 64 * 1024]);
            while read < EVENT_BYTES {
                let count = slow.read(&mut buffer)?;
                ensure!(count > 0, "the answer ends after {read} bytes");
                read += count;
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        });
        scene.serves_beside("json", 4, 40)?;
        reading
            .join()
            .map_err(|_| anyhow::anyhow!("the reader panicked"))?
    })
}
