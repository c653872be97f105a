//! The backend of the bench: a small and fast MCP server, so that the measurements show the cost of the gateway.
//!
//! Over HTTP it has sessions: `initialize` returns a session id, and all other requests need one.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io::{BufRead as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::serve::serve;

/// The header with the session id.
pub const SESSION_ID: &str = "mcp-session-id";
/// Name of the tool that returns its argument.
pub const ECHO: &str = "echo";
/// Name of the tool that returns its argument followed by [`LARGE_BYTES`] of text.
pub const LARGE: &str = "large";
/// Name of the tool that returns its argument in a stream of one event.
pub const STREAM: &str = "stream";
/// Size of the text that [`LARGE`] appends.
pub const LARGE_BYTES: usize = 32 * 1024;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

type Events = stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 1>>;
type Body = Either<Full<Bytes>, StreamBody<Events>>;

/// An MCP server. A cheap-clone handle.
#[derive(Clone, Debug)]
struct Server {
    shared: Arc<ServerState>,
}

#[derive(Debug)]
struct ServerState {
    tools: String,
    /// The text that [`LARGE`] appends, escaped for JSON: lines with quotation marks, as in files and reports.
    filling: String,
    sessions: AtomicU64,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    params: Option<Params<'a>>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    arguments: Option<Arguments<'a>>,
}

#[derive(Deserialize)]
struct Arguments<'a> {
    #[serde(borrow)]
    message: &'a RawValue,
}

/// Serves a server with `tools` tools at each of `listeners`, until the process ends.
///
/// # Errors
/// If no connection can be accepted.
pub async fn run(listeners: Vec<TcpListener>, tools: usize) -> anyhow::Result<()> {
    let server = Server::new(tools);
    let tasks = TaskTracker::new();
    let serving = listeners.into_iter().map(|listener| {
        let server = server.clone();
        serve(listener, &tasks, move |request| {
            let server = server.clone();
            async move { server.answer(request).await }
        })
    });
    futures::future::try_join_all(serving).await.map(drop)
}

/// Serves a server with `tools` tools on the standard streams, until the input ends.
///
/// # Errors
/// If the input is not JSON-RPC, or the output is closed.
pub fn run_stdio(tools: usize) -> anyhow::Result<()> {
    let server = Server::new(tools);
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let message: Message<'_> = serde_json::from_str(&line)?;
        if let Some(id) = message.id {
            let mut response = server.response(id.get(), &message);
            response.push('\n');
            output.write_all(response.as_bytes())?;
            output.flush()?;
        }
    }
    Ok(())
}

impl Server {
    fn new(tools: usize) -> Self {
        let names = [ECHO, LARGE, STREAM].map(str::to_owned).into_iter();
        let names = names.chain((0..).map(|number| format!("tool_{number}")));
        let tool = |name: String| {
            serde_json::json!({
                "name": name,
                "description": "Answers with the text that it is given, so that whoever calls it sees that it was called.",
                "inputSchema": {
                    "type": "object",
                    "properties": {"message": {"type": "string", "description": "The text."}},
                    "required": ["message"],
                },
            })
        };
        let tools: Vec<_> = names.take(tools).map(tool).collect();
        let mut filling = String::with_capacity(LARGE_BYTES + 128);
        for line in 0.. {
            if filling.len() >= LARGE_BYTES {
                break;
            }
            filling.push_str(&format!(
                r#"{line:6}  the \"result\" of a tool, in lines of text as a file has them\n"#
            ));
        }
        Self {
            shared: Arc::new(ServerState {
                tools: serde_json::json!({ "tools": tools }).to_string(),
                filling,
                sessions: AtomicU64::new(0),
            }),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match *request.method() {
            Method::POST => {}
            Method::DELETE => return status(StatusCode::OK),
            _ => return status(StatusCode::METHOD_NOT_ALLOWED),
        }
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return status(StatusCode::BAD_REQUEST);
        };
        let body = body.to_bytes();
        let Ok(message) = serde_json::from_slice::<Message<'_>>(&body) else {
            return status(StatusCode::BAD_REQUEST);
        };
        if message.method != "initialize" && !head.headers.contains_key(SESSION_ID) {
            return status(StatusCode::BAD_REQUEST);
        }
        match message.id {
            None => status(StatusCode::ACCEPTED),
            Some(id) => self.request(id.get(), &message),
        }
    }

    fn request(&self, id: &str, message: &Message<'_>) -> Response<Body> {
        let text = self.response(id, message);
        if message.method == "initialize" {
            let mut response = json(text);
            let number = self.shared.sessions.fetch_add(1, Ordering::Relaxed);
            if let Ok(session) = HeaderValue::try_from(format!("bench-{number:032}")) {
                response.headers_mut().insert(SESSION_ID, session);
            }
            return response;
        }
        let tool = message.params.as_ref().map_or("", |params| &*params.name);
        if message.method == "tools/call" && tool == STREAM {
            let event = format!("event: message\ndata: {text}\n\n");
            let events = stream::iter([Ok(Frame::data(Bytes::from(event)))]);
            let mut response = Response::new(Either::Right(StreamBody::new(events)));
            response.headers_mut().insert(CONTENT_TYPE, EVENT_STREAM);
            return response;
        }
        json(text)
    }

    /// The response to the request `id`.
    fn response(&self, id: &str, message: &Message<'_>) -> String {
        match &*message.method {
            "initialize" => result(
                id,
                r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"}}"#,
            ),
            "ping" => result(id, "{}"),
            "tools/list" => result(id, &self.shared.tools),
            "tools/call" => result(id, &self.call(message.params.as_ref())),
            _ => format!(
                r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"Method not found"}}}}"#
            ),
        }
    }

    fn call(&self, params: Option<&Params<'_>>) -> String {
        let text = params.and_then(|params| params.arguments.as_ref());
        let text = text.map_or("\"\"", |arguments| arguments.message.get());
        match params.map_or("", |params| &*params.name) {
            LARGE => content(text, &self.shared.filling),
            _ => content(text, ""),
        }
    }
}

/// The result of a call: the JSON string `text`, followed by `filling`.
fn content(text: &str, filling: &str) -> String {
    let text = text.strip_suffix('"').unwrap_or(text);
    let mut content = String::with_capacity(text.len() + filling.len() + 64);
    content.push_str(r#"{"content":[{"type":"text","text":"#);
    content.push_str(text);
    content.push_str(filling);
    content.push_str(r#""}]}"#);
    content
}

fn result(id: &str, result: &str) -> String {
    let mut message = String::with_capacity(id.len() + result.len() + 40);
    message.push_str(r#"{"jsonrpc":"2.0","id":"#);
    message.push_str(id);
    message.push_str(r#","result":"#);
    message.push_str(result);
    message.push('}');
    message
}

fn json(message: String) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(message))));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = status;
    response
}
