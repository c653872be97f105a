//! An MCP server whose responses a test defines, byte by byte if needed: for behaviour of real servers that no SDK has.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context as _;
use serde_json::{Value, json};

/// A running server. Its threads end with the connections and with the process.
#[derive(Clone, Debug)]
pub struct ScriptedServer {
    /// The URL of its endpoint.
    pub url: String,
    received: Arc<Mutex<Vec<Received>>>,
}

/// One request, as the server got it.
#[derive(Clone, Debug)]
pub struct Received {
    /// `POST`, `GET` or `DELETE`.
    pub verb: String,
    /// The path, as the request line has it.
    pub path: String,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The message in the body; `null` without one.
    pub message: Value,
}

/// What the server answers.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The headers, but for those that `framing` adds.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How the body is sent.
    pub framing: Framing,
}

/// How a body is sent, and what happens to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// With `Content-Length`.
    Length,
    /// In one chunk.
    Chunked,
    /// In chunks of one byte each.
    Drip,
    /// In one chunk; the last chunk never comes.
    Open,
    /// Without a length: the connection is closed behind it.
    UntilClose,
    /// After an interim response that the client did not ask for.
    AfterContinue,
    /// No byte is sent at all, until the other side closes the connection.
    Never,
}

impl ScriptedServer {
    /// Starts a server that responds with what `script` returns, and otherwise with [`usual`].
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(
        script: impl Fn(&Received) -> Option<Reply> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let server = Self {
            url: format!("http://{}/mcp", listener.local_addr()?),
            received: Arc::default(),
        };
        let (received, script) = (Arc::clone(&server.received), Arc::new(script));
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (received, script) = (Arc::clone(&received), Arc::clone(&script));
                // A connection that breaks is the client's affair.
                thread::spawn(move || drop(serve(connection, &received, &*script)));
            }
        });
        Ok(server)
    }

    /// Every request so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        lock(&self.received).clone()
    }

    /// Every message of that method so far.
    #[must_use]
    pub fn messages(&self, method: &str) -> Vec<Value> {
        let received = lock(&self.received);
        let wanted = received.iter().filter(|request| request.method() == method);
        wanted.map(|request| request.message.clone()).collect()
    }
}

impl Received {
    /// The first header of that name, which is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The method of the message; the verb where there is none.
    #[must_use]
    pub fn method(&self) -> &str {
        self.message["method"].as_str().unwrap_or(&self.verb)
    }

    /// The name in the parameters.
    #[must_use]
    pub fn name(&self) -> &str {
        self.message["params"]["name"].as_str().unwrap_or_default()
    }

    /// Its result, as JSON.
    #[must_use]
    pub fn result(&self, result: &Value) -> Reply {
        Reply::json(
            200,
            &json!({"jsonrpc": "2.0", "id": self.message["id"], "result": result}),
        )
    }

    /// Its error, as JSON, with this status.
    #[must_use]
    pub fn error(&self, status: u16, code: i64, message: &str) -> Reply {
        let error = json!({"code": code, "message": message});
        Reply::json(
            status,
            &json!({"jsonrpc": "2.0", "id": self.message["id"], "error": error}),
        )
    }
}

impl Reply {
    /// This JSON.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string().as_bytes())
    }

    /// A body of that type.
    #[must_use]
    pub fn new(status: u16, content_type: &str, body: &[u8]) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_vec(),
            framing: Framing::Length,
        }
        .with("content-type", content_type)
    }

    /// No body.
    #[must_use]
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            framing: Framing::Length,
        }
    }

    /// The same, sent in another way.
    #[must_use]
    pub fn framed(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// The response of a server with the tool `echo` and without sessions.
#[must_use]
pub fn usual(request: &Received) -> Reply {
    match request.method() {
        "initialize" => {
            let revision = &request.message["params"]["protocolVersion"];
            request.result(&json!({
                "protocolVersion": revision,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "scripted", "version": "1"},
            }))
        }
        "tools/list" => {
            request.result(&json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}))
        }
        "tools/call" => {
            let text = &request.message["params"]["arguments"]["message"];
            request.result(&json!({"content": [{"type": "text", "text": text}]}))
        }
        "ping" => request.result(&json!({})),
        "GET" | "DELETE" => Reply::empty(405),
        _ if request.message["id"].is_null() => Reply::empty(202),
        method => request.error(200, -32601, &format!("Method not found: {method}")),
    }
}

fn serve(
    connection: TcpStream,
    received: &Mutex<Vec<Received>>,
    script: &(dyn Fn(&Received) -> Option<Reply> + Send + Sync),
) -> anyhow::Result<()> {
    connection.set_nodelay(true)?;
    let mut writer = connection.try_clone()?;
    let mut reader = BufReader::new(connection);
    loop {
        let request = read(&mut reader)?;
        lock(received).push(request.clone());
        let reply = script(&request).unwrap_or_else(|| usual(&request));
        if !send(&reply, &mut writer)? {
            // What comes now is the end of the connection.
            std::io::copy(&mut reader, &mut std::io::sink())?;
            return Ok(());
        }
    }
}

/// Sends `reply`, and says whether another request may follow.
fn send(reply: &Reply, writer: &mut TcpStream) -> anyhow::Result<bool> {
    let mut head = match reply.framing {
        Framing::Never => return Ok(false),
        Framing::AfterContinue => "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
        _ => String::new(),
    };
    head.push_str(&format!("HTTP/1.1 {} Scripted\r\n", reply.status));
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let body = &reply.body;
    let chunk = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    let is_chunked = matches!(reply.framing, Framing::Chunked | Framing::Drip | Framing::Open);
    if is_chunked {
        head.push_str("transfer-encoding: chunked\r\n\r\n");
    } else if reply.framing == Framing::UntilClose {
        head.push_str("connection: close\r\n\r\n");
    } else if reply.status == 204 {
        head.push_str("\r\n");
    } else {
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    }
    if !is_chunked {
        writer.write_all(&[head.as_bytes(), body].concat())?;
        if reply.framing == Framing::UntilClose {
            writer.shutdown(std::net::Shutdown::Write)?;
            return Ok(false);
        }
        return Ok(true);
    }
    writer.write_all(head.as_bytes())?;
    let pieces = if reply.framing == Framing::Drip {
        1
    } else {
        body.len().max(1)
    };
    for piece in body.chunks(pieces) {
        writer.write_all(&chunk(piece))?;
    }
    if reply.framing == Framing::Open {
        return Ok(false);
    }
    writer.write_all(b"0\r\n\r\n")?;
    Ok(true)
}

fn read(reader: &mut BufReader<TcpStream>) -> anyhow::Result<Received> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (verb, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    anyhow::ensure!(!verb.is_empty(), "the connection ended");
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(Ok(0), |(_, value)| value.parse())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let message = match body.as_slice() {
        [] => Value::Null,
        body => serde_json::from_slice(body).context("the body is no JSON")?,
    };
    Ok(Received {
        verb,
        path,
        headers,
        message,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
