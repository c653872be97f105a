//! Event streams, for tests that read each event and its id while the stream is open.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::http_client::Session;

/// How long an event may take.
const LIMIT: Duration = Duration::from_secs(20);

/// An open event stream. Dropping it closes the connection, as a disconnecting client does.
#[derive(Debug)]
pub struct Stream {
    /// The status of the answer.
    pub status: u16,
    /// The value of `Content-Type`.
    pub content_type: String,
    reader: BufReader<TcpStream>,
    unread: Vec<u8>,
    ended: bool,
}

/// One event. Comments are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `id:`.
    pub id: Option<String>,
    /// `event:`.
    pub event: Option<String>,
    /// `retry:`.
    pub retry: Option<String>,
    /// `data:`, with its lines joined. Absent where there is no such line.
    pub data: Option<String>,
}

impl Event {
    /// The message in it, if there is one.
    #[must_use]
    pub fn message(&self) -> Option<Value> {
        serde_json::from_str(self.data.as_deref()?).ok()
    }
}

impl Stream {
    /// Opens the session's own stream, behind the event `last` if one is given.
    ///
    /// # Errors
    /// When there is no HTTP answer.
    pub fn get(gateway: SocketAddr, session: &Session, last: Option<&str>) -> anyhow::Result<Self> {
        let mut headers = vec![
            ("accept", "text/event-stream"),
            ("mcp-session-id", &session.id),
            ("mcp-protocol-version", "2025-11-25"),
        ];
        headers.extend(last.map(|last| ("last-event-id", last)));
        Self::open(gateway, "GET", &headers, "")
    }

    /// Posts a message whose answer is a stream.
    ///
    /// # Errors
    /// When there is no HTTP answer.
    pub fn post(gateway: SocketAddr, session: &Session, message: &Value) -> anyhow::Result<Self> {
        let headers = [
            ("accept", "application/json, text/event-stream"),
            ("content-type", "application/json"),
            ("mcp-session-id", &*session.id),
            ("mcp-protocol-version", "2025-11-25"),
        ];
        Self::open(gateway, "POST", &headers, &message.to_string())
    }

    /// Calls a tool with `params` beside its name and arguments.
    ///
    /// # Errors
    /// When there is no HTTP answer, or it is no stream.
    pub fn call(
        gateway: SocketAddr,
        session: &Session,
        id: &Value,
        tool: &str,
        arguments: &Value,
    ) -> anyhow::Result<Self> {
        let params =
            json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": format!("of {id}")}});
        let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
        let mut stream = Self::post(gateway, session, &call)?;
        if stream.content_type != "text/event-stream" {
            let body = stream.rest()?;
            bail!("{tool}: {} {body}", stream.status);
        }
        Ok(stream)
    }

    fn open(server: SocketAddr, method: &str, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        let mut head = format!("{method} /mcp HTTP/1.1\r\nhost: {server}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(head.as_bytes())?;
        let mut opened = Self {
            status: 0,
            content_type: String::new(),
            reader: BufReader::new(stream),
            unread: Vec::new(),
            ended: false,
        };
        opened.head()?;
        Ok(opened)
    }

    fn head(&mut self) -> anyhow::Result<()> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        self.status = status.with_context(|| format!("not an HTTP answer: {line:?}"))?;
        let mut length = None;
        loop {
            line.clear();
            self.reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            match &*name.to_ascii_lowercase() {
                "content-type" => self.content_type = value.trim().to_owned(),
                "content-length" => length = value.trim().parse::<usize>().ok(),
                _ => {}
            }
        }
        if let Some(length) = length {
            self.unread = vec![0; length];
            self.reader.read_exact(&mut self.unread)?;
            self.ended = true;
        }
        Ok(())
    }

    /// The next event; `None` at the end of the stream.
    ///
    /// # Errors
    /// When it takes too long, or the connection breaks.
    pub fn next_event(&mut self) -> anyhow::Result<Option<Event>> {
        let started = Instant::now();
        // Comments come also when no event does.
        while started.elapsed() < LIMIT {
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            if let Some(event) = event(&block) {
                return Ok(Some(event));
            }
        }
        bail!("no event within {LIMIT:?}")
    }

    /// The next comment; skips everything else.
    ///
    /// # Errors
    /// When the stream ends or breaks before there is one.
    pub fn comment(&mut self) -> anyhow::Result<String> {
        loop {
            let block = self.block()?.context("the stream ended")?;
            if let Some(comment) = block.lines().find_map(|line| line.strip_prefix(':')) {
                return Ok(comment.trim().to_owned());
            }
        }
    }

    /// Everything up to the next empty line.
    fn block(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\n\n") {
                return Ok(Some(String::from_utf8(self.unread.drain(..end + 2).collect())?));
            }
            if !self.chunk()? {
                ensure!(self.unread.is_empty(), "half an event: {:?}", self.unread);
                return Ok(None);
            }
        }
    }

    /// The next event that has a message, and the message.
    ///
    /// # Errors
    /// When the stream ends or breaks before there is one, or the event does not say that it carries a message, for which some clients wait.
    pub fn next_message(&mut self) -> anyhow::Result<(Event, Value)> {
        loop {
            let event = self.next_event()?.context("the stream ended")?;
            if let Some(message) = event.message() {
                ensure!(event.event.as_deref() == Some("message"), "{event:?}");
                return Ok((event, message));
            }
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// As [`Self::next_message`].
    pub fn message(&mut self) -> anyhow::Result<Value> {
        Ok(self.next_message()?.1)
    }

    /// Waits for a message with the method `method`, and skips others.
    ///
    /// # Errors
    /// As [`Self::next_message`].
    pub fn await_method(&mut self, method: &str) -> anyhow::Result<(Event, Value)> {
        loop {
            let (event, message) = self.next_message().with_context(|| method.to_owned())?;
            if message["method"] == method {
                return Ok((event, message));
            }
        }
    }

    /// The rest of the stream, as text.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn rest(&mut self) -> anyhow::Result<String> {
        while self.chunk()? {}
        Ok(String::from_utf8_lossy(&self.unread).into_owned())
    }

    /// Resets the connection.
    ///
    /// # Errors
    /// When the connection has ended already.
    pub fn abandon(self) -> anyhow::Result<()> {
        Ok(self.reader.get_ref().shutdown(Shutdown::Both)?)
    }

    fn chunk(&mut self) -> anyhow::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let mut line = String::new();
        self.reader.read_line(&mut line).context("no event in time")?;
        let size =
            usize::from_str_radix(line.trim(), 16).with_context(|| format!("not a chunk: {line:?}"))?;
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk)?;
        self.unread.extend_from_slice(&chunk[..size]);
        self.ended = size == 0;
        Ok(!self.ended)
    }
}

fn event(block: &str) -> Option<Event> {
    let mut event = Event::default();
    for line in block.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        match name {
            "id" => event.id = Some(value),
            "event" => event.event = Some(value),
            "retry" => event.retry = Some(value),
            "data" => {
                event.data = Some(match event.data.take() {
                    None => value,
                    Some(data) => format!("{data}\n{value}"),
                });
            }
            _ => {}
        }
    }
    (event != Event::default()).then_some(event)
}
