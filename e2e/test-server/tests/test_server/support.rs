//! A running test server, and a client that shows what is on the wire.

use std::process::Stdio;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as Http, Error};
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Longer than anything here takes, and shorter than anybody wants to wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A test server process. Dropping it kills it.
pub(crate) struct TestServer {
    pub(crate) child: Child,
    pub(crate) mcp: String,
    pub(crate) admin: String,
    http: Http<HttpConnector, Body>,
}

/// Runs the binary and waits for its ready line.
pub(crate) async fn start(args: &[&str]) -> TestServer {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vmcp-test-server"))
        .args(args)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .await
        .unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let url = |name: &str| ready[name].as_str().unwrap().to_owned();
    TestServer {
        child,
        mcp: url("mcp"),
        admin: url("admin"),
        http: http(),
    }
}

fn http() -> Http<HttpConnector, Body> {
    Http::builder(TokioExecutor::new()).build_http()
}

impl TestServer {
    /// Asks the admin port. Panics when it refuses.
    pub(crate) async fn admin(&self, method: Method, path: &str, body: Value) -> Value {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.admin))
            .header("content-type", "application/json")
            .body(Body::from(if body.is_null() {
                String::new()
            } else {
                body.to_string()
            }))
            .unwrap();
        let response = self.http.request(request).await.unwrap();
        let status = response.status();
        let text = text(response).await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    pub(crate) async fn stats(&self) -> Value {
        self.admin(Method::GET, "/stats", Value::Null).await
    }

    pub(crate) async fn fault(&self, rule: Value) {
        self.admin(Method::POST, "/faults", rule).await;
    }

    /// A client that has not said anything yet.
    pub(crate) fn client(&self) -> Client {
        // A pool of its own: a fault breaks no connection of another client.
        Client {
            http: http(),
            url: self.mcp.clone(),
            headers: HeaderMap::new(),
            next: 1,
        }
    }

    /// A client with a session.
    pub(crate) async fn session(&self) -> Client {
        let mut client = self.client();
        client.initialize("test").await;
        client
    }
}

/// A client.
#[derive(Clone)]
pub(crate) struct Client {
    http: Http<HttpConnector, Body>,
    url: String,
    pub(crate) headers: HeaderMap,
    next: u64,
}

impl Client {
    pub(crate) async fn initialize(&mut self, name: &str) {
        self.initialize_with(name, json!({})).await;
    }

    pub(crate) async fn initialize_with(&mut self, name: &str, capabilities: Value) {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": capabilities,
            "clientInfo": {"name": name, "version": "1"},
        });
        let response = self.request("initialize", params).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        if let Some(session) = response.headers().get("mcp-session-id") {
            self.headers.insert("mcp-session-id", session.clone());
        }
        drop(text(response).await);
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let response = self.send(Method::POST, initialized).await.unwrap();
        assert_eq!(response.status(), StatusCode::ACCEPTED);
    }

    pub(crate) fn session(&self) -> String {
        self.headers["mcp-session-id"].to_str().unwrap().to_owned()
    }

    /// Sends a request, and gives the response as it comes.
    pub(crate) async fn request(&mut self, method: &str, params: Value) -> Result<Response<Incoming>, Error> {
        let id = self.next;
        self.next += 1;
        self.send(
            Method::POST,
            json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}),
        )
        .await
    }

    pub(crate) async fn send(&self, verb: Method, body: Value) -> Result<Response<Incoming>, Error> {
        let mut request = Request::builder()
            .method(verb)
            .uri(&self.url)
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json")
            .body(Body::from(if body.is_null() {
                String::new()
            } else {
                body.to_string()
            }))
            .unwrap();
        request.headers_mut().extend(self.headers.clone());
        self.http.request(request).await
    }

    pub(crate) async fn call_raw(
        &mut self,
        tool: &str,
        arguments: Value,
    ) -> Result<Response<Incoming>, Error> {
        self.request("tools/call", json!({"name": tool, "arguments": arguments}))
            .await
    }

    /// Calls a tool, and gives its text.
    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> String {
        let id = self.next;
        let response = self.call_raw(tool, arguments).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let answer = answer(&text(response).await.unwrap());
        assert_eq!(answer["id"], id);
        answer["result"]["content"][0]["text"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) async fn names(&mut self, method: &str, list: &str) -> Vec<String> {
        let response = self.request(method, json!({})).await.unwrap();
        let answer = answer(&text(response).await.unwrap());
        let items = answer["result"][list].as_array().unwrap();
        items
            .iter()
            .map(|item| item["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// The whole body.
pub(crate) async fn text(response: Response<Incoming>) -> Result<String, hyper::Error> {
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect())
        .await
        .unwrap()?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

/// The messages of a body, JSON or event stream.
pub(crate) fn messages(body: &str) -> Vec<Value> {
    if body.starts_with('{') {
        return vec![serde_json::from_str(body).unwrap()];
    }
    let data = body.lines().filter_map(|line| line.strip_prefix("data:"));
    data.filter_map(|data| serde_json::from_str(data).ok()).collect()
}

/// The last message of a body, which is the answer.
pub(crate) fn answer(body: &str) -> Value {
    messages(body)
        .pop()
        .unwrap_or_else(|| panic!("no answer in {body:?}"))
}

/// An event stream that is read piece by piece.
pub(crate) struct Events {
    body: Incoming,
    buffer: String,
}

/// One event.
#[derive(Debug, Default)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) message: Option<Value>,
}

impl Events {
    pub(crate) fn new(response: Response<Incoming>) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        Self {
            body: response.into_body(),
            buffer: String::new(),
        }
    }

    /// The next event, or nothing when the stream ends.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let mut parsed = Event::default();
                for line in event.lines() {
                    if let Some(id) = line.strip_prefix("id: ") {
                        parsed.id = Some(id.to_owned());
                    }
                    if let Some(data) = line.strip_prefix("data: ") {
                        parsed.message = serde_json::from_str(data).ok();
                    }
                }
                self.buffer = rest.to_owned();
                return Some(parsed);
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.unwrap()?;
            let Ok(data) = frame.unwrap().into_data() else {
                continue;
            };
            self.buffer.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    /// The next message.
    pub(crate) async fn message(&mut self) -> Option<Value> {
        loop {
            if let Some(message) = self.next().await?.message {
                return Some(message);
            }
        }
    }
}
