//! A hostile MCP server. Each of its endpoints attacks the gateway in another way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// The endpoints, and what the backends behind them are called.
pub(super) const NAMES: [&str; 3] = ["endless", "version", "wide"];

const MIB: usize = 1024 * 1024;
/// How long a stream is held open that says nothing more.
const HOLD: Duration = Duration::from_secs(5);

/// A server that is hostile on request, and normal before.
#[derive(Debug)]
pub struct Hostile {
    address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether it is hostile now.
    hostile: AtomicBool,
    /// How often the wide endpoint was listed.
    looks: AtomicU64,
}

impl Hostile {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let (address, shared) = (listener.local_addr()?, Arc::new(Shared::default()));
        let serving = Arc::clone(&shared);
        runtime.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                connections.spawn(async move { drop(serve(stream, &shared).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            shared,
            _runtime: runtime,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the endpoint `name`.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Makes it hostile, or not.
    pub fn set_hostile(&self, hostile: bool) {
        self.shared.hostile.store(hostile, Ordering::Relaxed);
    }
}

/// A request, as far as it matters.
struct Request {
    method: String,
    endpoint: String,
    message: Value,
}

async fn read(stream: &mut BufReader<TcpStream>) -> anyhow::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let method = words.next().unwrap_or_default();
    let endpoint = words.next().unwrap_or_default().trim_matches('/').to_owned();
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(Request {
        method,
        endpoint,
        message: serde_json::from_slice(&body).unwrap_or_default(),
    }))
}

async fn serve(stream: TcpStream, shared: &Shared) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await? {
        let hostile = shared.hostile.load(Ordering::Relaxed);
        let (id, params) = (&request.message["id"], &request.message["params"]);
        let tool = params["name"].as_str().unwrap_or_default();
        match (
            &*request.method,
            request.message["method"].as_str().unwrap_or_default(),
        ) {
            // The rest of a call, or the session's own stream, on which lists change again and again.
            ("GET", _) => return events(&mut stream, &request.endpoint, hostile).await,
            ("POST", "initialize") => {
                let revision = match &*request.endpoint {
                    // Not at every time: there would be no session in which anything could be called.
                    "version" if hostile => "9".repeat(3 * MIB),
                    _ => "2025-11-25".to_owned(),
                };
                let result = json!({
                    "protocolVersion": revision,
                    "capabilities": {"tools": {"listChanged": true}, "resources": {}},
                    "serverInfo": {"name": "hostile", "version": "1"},
                });
                let session = format!(
                    "mcp-session-id: {:x}\r\n",
                    shared.looks.fetch_add(1, Ordering::Relaxed)
                );
                answer(&mut stream, id, &result, &session).await?;
            }
            ("POST", "tools/list") => {
                let tools = match &*request.endpoint {
                    "wide" if hostile => wide_tools(shared.looks.fetch_add(1, Ordering::Relaxed)),
                    "large" => (0..3000).map(described_tool).collect(),
                    "endless" => ["endless", "resumable", "comments"].map(tool_named).to_vec(),
                    _ => vec![tool_named("any")],
                };
                answer(&mut stream, id, &json!({"tools": tools}), "").await?;
            }
            ("POST", "resources/templates/list") if hostile && request.endpoint == "wide" => {
                let template = |number| {
                    let parts: String = (0..50).map(|part| format!("{{p{part}}}/")).collect();
                    json!({"uriTemplate": format!("test://{parts}{number}"), "name": "x"})
                };
                let templates: Vec<_> = (0..2000).map(template).collect();
                answer(&mut stream, id, &json!({"resourceTemplates": templates}), "").await?;
            }
            ("POST", "resources/list") => answer(&mut stream, id, &json!({"resources": []}), "").await?,
            ("POST", "resources/templates/list") => {
                answer(&mut stream, id, &json!({"resourceTemplates": []}), "").await?;
            }
            ("POST", "tools/call") if tool == "endless" => {
                head(&mut stream, "text/event-stream").await?;
                chunk(&mut stream, b"data: ").await?;
                for _ in 0..16 {
                    chunk(&mut stream, &vec![b'x'; MIB - 1]).await?;
                }
                tokio::time::sleep(HOLD).await;
                return Ok(());
            }
            ("POST", "tools/call") if tool == "resumable" => {
                head(&mut stream, "text/event-stream").await?;
                chunk(&mut stream, b"id: 1\ndata: \n\n").await?;
                tokio::time::sleep(HOLD).await;
                return Ok(());
            }
            ("POST", "tools/call") if tool == "comments" => {
                head(&mut stream, "text/event-stream").await?;
                for _ in 0..18 {
                    chunk(&mut stream, &[b": ", &vec![b'c'; MIB][..], b"\n"].concat()).await?;
                }
                let result = json!({"jsonrpc": "2.0", "id": id, "result": {"content": []}});
                chunk(&mut stream, format!("data: {result}\n\n").as_bytes()).await?;
                chunk(&mut stream, b"").await?;
            }
            ("POST", _) if !id.is_null() => answer(&mut stream, id, &json!({"content": []}), "").await?,
            _ => {
                let accepted = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
                stream.get_mut().write_all(accepted).await?;
            }
        }
    }
    Ok(())
}

fn tool_named(name: &str) -> Value {
    json!({"name": name, "inputSchema": {"type": "object"}})
}

/// A tool with a description as real ones have it.
fn described_tool(number: usize) -> Value {
    let mut tool = tool_named(&format!("tool-{number:05}"));
    tool["description"] = "What it does. ".repeat(25).into();
    tool
}

/// The list of the wide endpoint, which is different each time.
fn wide_tools(look: u64) -> Vec<Value> {
    match look % 3 {
        0 => {
            let mut tool = tool_named("wide");
            for key in 0..60_000 {
                tool[format!("key-{key}")] = 1.into();
            }
            vec![tool]
        }
        1 => {
            let mut tool = tool_named("long");
            tool["description"] = "d".repeat(30_000_000).into();
            vec![tool]
        }
        _ => (0..20_000)
            .map(|number| tool_named(&format!("tool-{look}-{number}")))
            .collect(),
    }
}

/// Says again and again that the lists have changed; the rest of a call says nothing.
async fn events(stream: &mut BufReader<TcpStream>, endpoint: &str, hostile: bool) -> anyhow::Result<()> {
    if !hostile {
        let none = b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        return stream
            .get_mut()
            .write_all(none)
            .await
            .context("a client has gone");
    }
    head(stream, "text/event-stream").await?;
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    for number in 2..52 {
        if endpoint == "wide" {
            chunk(stream, format!("id: {number}\ndata: {changed}\n\n").as_bytes()).await?;
        }
        tokio::time::sleep(HOLD / 50).await;
    }
    Ok(())
}

async fn head(stream: &mut BufReader<TcpStream>, kind: &str) -> anyhow::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
    Ok(stream.get_mut().write_all(head.as_bytes()).await?)
}

async fn chunk(stream: &mut BufReader<TcpStream>, data: &[u8]) -> anyhow::Result<()> {
    let stream = stream.get_mut();
    stream
        .write_all(format!("{:x}\r\n", data.len()).as_bytes())
        .await?;
    stream.write_all(data).await?;
    Ok(stream.write_all(b"\r\n").await?)
}

async fn answer(
    stream: &mut BufReader<TcpStream>,
    id: &Value,
    result: &Value,
    more: &str,
) -> anyhow::Result<()> {
    let body = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{more}\r\n",
        body.len()
    );
    stream.get_mut().write_all(head.as_bytes()).await?;
    Ok(stream.get_mut().write_all(body.as_bytes()).await?)
}
