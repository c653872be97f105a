//! An MCP server that records every message byte for byte, and responds as the test defines.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::{Value, json};

/// The response to a request that the server does not handle by itself.
#[derive(Clone, Debug)]
pub enum BackendReply {
    /// A result, in JSON.
    Result(Value),
    /// These messages, in a stream, and then this result.
    Events(Vec<Value>, Value),
    /// This message, as it stands there, in JSON.
    Verbatim(String),
}

/// A message that arrived.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    /// The HTTP head, in lower case.
    pub head: String,
    /// The message.
    pub body: Vec<u8>,
}

type Answering = dyn Fn(&Value) -> BackendReply + Send + Sync;

/// A running server. Its threads end with the connections and with the process.
#[derive(Clone)]
pub struct RecordingBackend {
    /// Where it is reached.
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    messages: Mutex<Vec<ReceivedMessage>>,
    listening: Mutex<Vec<TcpStream>>,
    /// What it lists, by the field of the list.
    offer: Value,
    answer: Box<Answering>,
}

impl RecordingBackend {
    /// Starts a server that lists what `offer` holds under `tools`, `prompts`, `resources` and `resourceTemplates`, and answers every
    /// request but those of the handshake, pings and lists with what `answer` says.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(
        offer: Value,
        answer: impl Fn(&Value) -> BackendReply + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let url = format!("http://{}/mcp", listener.local_addr()?);
        let shared = Arc::new(Shared {
            messages: Mutex::default(),
            listening: Mutex::default(),
            offer,
            answer: Box::new(answer),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // The gateway may disconnect.
                thread::spawn(move || drop(serve(&client, &shared)));
            }
        });
        Ok(Self { url, shared })
    }

    /// Returns and clears the received messages.
    #[must_use]
    pub fn take_messages(&self) -> Vec<ReceivedMessage> {
        std::mem::take(&mut lock(&self.shared.messages))
    }

    /// Sends a message on every stream that a client of the server has open.
    pub fn push(&self, message: &Value) {
        let event = format!("data: {message}\n\n");
        let mut listening = lock(&self.shared.listening);
        listening.retain_mut(|stream| stream.write_all(event.as_bytes()).is_ok());
    }

    /// How many streams are open.
    #[must_use]
    pub fn listeners(&self) -> usize {
        lock(&self.shared.listening).len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(client: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut writer = client.try_clone()?;
    let mut reader = BufReader::new(client.try_clone()?);
    loop {
        let (mut line, mut head, mut length) = (String::new(), String::new(), 0);
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim_end().is_empty() {
                break;
            }
            line.make_ascii_lowercase();
            head.push_str(&line);
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or_default();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        match head.split(' ').next() {
            Some("post") => {
                let answer = shared.answer_to(&body);
                lock(&shared.messages).push(ReceivedMessage { head, body });
                writer.write_all(&answer)?;
            }
            Some("get") => {
                writer.write_all(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
                )?;
                lock(&shared.listening).push(client.try_clone()?);
            }
            _ => writer.write_all(&http("200 OK", "application/json", ""))?,
        }
    }
}

impl Shared {
    /// The HTTP answer to a message.
    fn answer_to(&self, body: &[u8]) -> Vec<u8> {
        let message: Value = serde_json::from_slice(body).unwrap_or_default();
        let (id, method) = (&message["id"], message["method"].as_str().unwrap_or_default());
        if id.is_null() || method.is_empty() {
            return http("202 Accepted", "application/json", "");
        }
        let list = |field: &str| {
            let items = self.offer[field].as_array().cloned().unwrap_or_default();
            BackendReply::Result(json!({field: items}))
        };
        let reply = match method {
            "initialize" => BackendReply::Result(json!({
                "protocolVersion": "2025-11-25",
                "capabilities": {
                    "tools": {}, "prompts": {}, "resources": {"subscribe": true}, "completions": {}, "logging": {},
                },
                "serverInfo": {"name": "recording", "version": "1"},
            })),
            "ping" | "logging/setLevel" => BackendReply::Result(json!({})),
            "tools/list" => list("tools"),
            "prompts/list" => list("prompts"),
            "resources/list" => list("resources"),
            "resources/templates/list" => list("resourceTemplates"),
            _ => (self.answer)(&message),
        };
        let result = |result: &Value| json!({"jsonrpc": "2.0", "id": id, "result": result});
        match reply {
            BackendReply::Result(value) => {
                let session = if method == "initialize" {
                    "application/json\r\nmcp-session-id: recorded"
                } else {
                    "application/json"
                };
                http("200 OK", session, &result(&value).to_string())
            }
            BackendReply::Verbatim(text) => http("200 OK", "application/json", &text),
            BackendReply::Events(messages, value) => {
                let messages = messages.into_iter().chain([result(&value)]);
                let events: String = messages.map(|message| format!("data: {message}\n\n")).collect();
                http("200 OK", "text/event-stream", &events)
            }
        }
    }
}

fn http(status: &str, content_type: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
