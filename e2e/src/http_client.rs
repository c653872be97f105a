//! A minimal HTTP/1.1 client for tests that check statuses, headers and bytes. It uses one connection per request, and never retries.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The name by which the client identifies itself in `initialize`.
pub const CLIENT_NAME: &str = "http-client";

/// An HTTP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body's bytes.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that name, which is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON-RPC message in the body: the body itself, or the last event with data of an event stream.
    ///
    /// # Errors
    /// When there is none.
    pub fn message(&self) -> anyhow::Result<Value> {
        let text = self.message_text()?;
        serde_json::from_str(&text).with_context(|| format!("status {}, not JSON: {text:?}", self.status))
    }

    /// The result or the error in the message, as it stands there.
    ///
    /// # Errors
    /// When there is none.
    pub fn outcome(&self) -> anyhow::Result<Box<RawValue>> {
        #[derive(serde::Deserialize)]
        struct Outcome {
            result: Option<Box<RawValue>>,
            error: Option<Box<RawValue>>,
        }
        let text = self.message_text()?;
        let message: Outcome = serde_json::from_str(&text)
            .with_context(|| format!("status {}, no answer: {text:?}", self.status))?;
        let outcome = message.result.or(message.error);
        outcome.with_context(|| format!("no result and no error: {text}"))
    }

    fn message_text(&self) -> anyhow::Result<String> {
        let text = self.text();
        let stream = self
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("text/event-stream"));
        if !stream {
            return Ok(text);
        }
        let mut data = text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter(|data| !data.is_empty());
        Ok(data.next_back().context("no event has data")?.to_owned())
    }

    /// The text of the first content of a tool's result.
    ///
    /// # Errors
    /// When the answer is no result, or is one that says `isError`.
    pub fn tool_text(&self) -> anyhow::Result<String> {
        let message = self.message()?;
        if message["result"]["isError"] == json!(true) {
            bail!("the tool failed: {message}");
        }
        let text = message["result"]["content"][0]["text"].as_str();
        text.map(str::to_owned)
            .with_context(|| format!("no text in {message}"))
    }

    /// The code of the JSON-RPC error in the body; 0 if there is none.
    #[must_use]
    pub fn error_code(&self) -> i64 {
        self.message()
            .ok()
            .and_then(|message| message["error"]["code"].as_i64())
            .unwrap_or_default()
    }

    /// Fails unless the response is that for a lost session: 404, -32001 and a null id.
    ///
    /// # Errors
    /// When it is another answer.
    pub fn ensure_session_not_found(&self) -> anyhow::Result<()> {
        let message = self.message()?;
        let is_null = message.get("id").is_some_and(Value::is_null);
        let found = (self.status, &message["error"]["code"], is_null);
        anyhow::ensure!(found == (404, &json!(-32001), true), "{} {message}", self.status);
        Ok(())
    }
}

/// A client of the legacy era, which is only a session id.
#[derive(Clone, Debug)]
pub struct Session {
    /// The id, as the gateway gave it.
    pub id: String,
}

impl Session {
    /// Opens a session with `initialize` and `notifications/initialized`.
    ///
    /// # Errors
    /// When the gateway refuses.
    pub fn open(gateway: SocketAddr) -> anyhow::Result<Self> {
        Self::open_with(gateway, "2025-11-25", &json!({}))
    }

    /// Opens a session of that revision, with these capabilities.
    ///
    /// # Errors
    /// When the gateway refuses.
    pub fn open_with(gateway: SocketAddr, revision: &str, capabilities: &Value) -> anyhow::Result<Self> {
        let answer = initialize_with(gateway, revision, capabilities)?;
        let id = answer
            .header("mcp-session-id")
            .with_context(|| format!("no session: {answer:?}"))?;
        let session = Self { id: id.to_owned() };
        let accepted = session.post(
            gateway,
            &json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        )?;
        if accepted.status != 202 {
            bail!("notifications/initialized: {accepted:?}");
        }
        Ok(session)
    }

    /// Posts a message.
    ///
    /// # Errors
    /// When there is no HTTP answer.
    pub fn post(&self, gateway: SocketAddr, message: &Value) -> anyhow::Result<Answer> {
        post(
            gateway,
            &[
                ("mcp-session-id", &self.id),
                ("mcp-protocol-version", "2025-11-25"),
            ],
            message,
        )
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When there is no HTTP answer.
    pub fn request(&self, gateway: SocketAddr, method: &str, params: &Value) -> anyhow::Result<Answer> {
        self.post(
            gateway,
            &json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}),
        )
    }

    /// Requests every page of a list, and returns the verbatim items.
    ///
    /// # Errors
    /// When a page is not given.
    pub fn list(&self, gateway: SocketAddr, method: &str) -> anyhow::Result<Vec<Box<RawValue>>> {
        let mut items = Vec::new();
        let mut params = json!({});
        loop {
            let answer = self.request(gateway, method, &params)?;
            let page = answer.outcome()?;
            let mut page: BTreeMap<String, Box<RawValue>> = serde_json::from_str(page.get())?;
            let next = page.remove("nextCursor");
            page.remove("_meta");
            let (_, list) = page
                .pop_first()
                .with_context(|| format!("{method}: {}", answer.text()))?;
            let list: Vec<Box<RawValue>> = serde_json::from_str(list.get())
                .with_context(|| format!("{method}: no list: {}", answer.text()))?;
            items.extend(list);
            match next {
                Some(cursor) => params = json!({"cursor": serde_json::from_str::<Value>(cursor.get())?}),
                None => return Ok(items),
            }
        }
    }

    /// The names of a list, in its order: names, URIs or URI templates.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn names(&self, gateway: SocketAddr, method: &str) -> anyhow::Result<Vec<String>> {
        let key = match method {
            "resources/list" => "uri",
            "resources/templates/list" => "uriTemplate",
            _ => "name",
        };
        let items = self.list(gateway, method)?;
        let name = |item: &RawValue| {
            let item: Value = serde_json::from_str(item.get())?;
            let name = item[key].as_str().map(str::to_owned);
            name.with_context(|| format!("no {key} in {item}"))
        };
        items.iter().map(|item| name(item)).collect()
    }

    /// Calls a tool with a unique id: a server may confuse two calls with one id.
    ///
    /// # Errors
    /// When there is no HTTP answer.
    pub fn call(&self, gateway: SocketAddr, tool: &str, arguments: &Value) -> anyhow::Result<Answer> {
        static NEXT: AtomicU64 = AtomicU64::new(1000);
        self.call_as(NEXT.fetch_add(1, Ordering::Relaxed), gateway, tool, arguments)
    }

    /// Calls a tool with the id `id`.
    ///
    /// # Errors
    /// When there is no HTTP answer.
    pub fn call_as(
        &self,
        id: u64,
        gateway: SocketAddr,
        tool: &str,
        arguments: &Value,
    ) -> anyhow::Result<Answer> {
        let params = json!({"name": tool, "arguments": arguments});
        let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
        self.post(gateway, &call)
    }

    /// Ends the session.
    ///
    /// # Errors
    /// When there is no HTTP answer.
    pub fn delete(&self, gateway: SocketAddr) -> anyhow::Result<Answer> {
        exchange(gateway, "DELETE", "/mcp", &[("mcp-session-id", &self.id)], b"")
    }
}

/// Sends `initialize`.
///
/// # Errors
/// When there is no HTTP answer.
pub fn initialize(gateway: SocketAddr) -> anyhow::Result<Answer> {
    initialize_with(gateway, "2025-11-25", &json!({}))
}

/// Sends `initialize` for that revision, with these capabilities.
///
/// # Errors
/// When there is no HTTP answer.
pub fn initialize_with(gateway: SocketAddr, revision: &str, capabilities: &Value) -> anyhow::Result<Answer> {
    let params = json!({
        "protocolVersion": revision,
        "capabilities": capabilities,
        "clientInfo": {"name": CLIENT_NAME, "version": "1"},
    });
    post(
        gateway,
        &[],
        &json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}),
    )
}

/// Posts a message to the MCP endpoint.
///
/// # Errors
/// When there is no HTTP answer.
pub fn post(gateway: SocketAddr, headers: &[(&str, &str)], message: &Value) -> anyhow::Result<Answer> {
    let mut all = vec![
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
    ];
    all.extend_from_slice(headers);
    exchange(gateway, "POST", "/mcp", &all, message.to_string().as_bytes())
}

/// Gets a page.
///
/// # Errors
/// When there is no HTTP answer.
pub fn get(server: SocketAddr, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    exchange(server, "GET", path, headers, b"")
}

/// One request and its answer.
///
/// # Errors
/// When the connection cannot be made or breaks, or the answer is not HTTP.
pub fn exchange(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> anyhow::Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    verbatim(server, &[head.as_bytes(), body].concat())
}

/// Sends these bytes, which need not be HTTP, and reads the response.
///
/// # Errors
/// As [`exchange`].
pub fn verbatim(server: SocketAddr, request: &[u8]) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    stream.write_all(request)?;
    answer(stream)
}

/// The answer that comes on `stream`.
///
/// # Errors
/// When the connection breaks, or the answer is not HTTP.
pub fn answer(stream: TcpStream) -> anyhow::Result<Answer> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("not an HTTP answer: {line:?}"))?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut body = Vec::new();
    let started = Instant::now();
    if headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value == "chunked")
    {
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            // A stream with only keep-alive comments would never end.
            anyhow::ensure!(
                started.elapsed() < LIMIT,
                "the answer does not end: {:?}",
                String::from_utf8_lossy(&body)
            );
            let size =
                usize::from_str_radix(line.trim(), 16).with_context(|| format!("not a chunk: {line:?}"))?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else {
        reader.read_to_end(&mut body)?;
    }
    Ok(Answer {
        status,
        headers,
        body,
    })
}
