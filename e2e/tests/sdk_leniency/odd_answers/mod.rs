//! The corpus of odd responses: servers that deviate from the specification.

mod contents;
mod http;
mod messages;

use serde_json::{Value, json};
use vmcp_e2e::scripted_server::{Received, Reply, usual};

/// What a server answers instead of [`usual`].
pub(crate) type Script = Box<dyn Fn(&Received) -> Option<Reply> + Send + Sync>;

/// A server with one oddity.
pub(crate) struct OddServer {
    /// Its name, which is also a backend's.
    pub(crate) name: &'static str,
    /// What it answers.
    pub(crate) script: Script,
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// All of them. Each call makes servers that have seen nothing yet.
pub(crate) fn odd_servers() -> Vec<OddServer> {
    let mut all = vec![odd("plain", |_| None)];
    all.extend(http::all());
    all.extend(messages::all());
    all.extend(contents::all());
    all
}

fn odd(name: &'static str, script: impl Fn(&Received) -> Option<Reply> + Send + Sync + 'static) -> OddServer {
    OddServer {
        name,
        script: Box::new(script),
    }
}

/// A server whose answers to requests are usual, but for what `change` makes of the message.
fn each(name: &'static str, change: impl Fn(String) -> Reply + Send + Sync + 'static) -> OddServer {
    odd(name, move |request| Some(change(answer(request)?)))
}

/// The usual answer to a request, as text.
fn answer(request: &Received) -> Option<String> {
    let is_request = !request.message["id"].is_null() && !request.message["method"].is_null();
    is_request.then(|| text(&usual(request)))
}

fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

/// A server whose answers to requests come as this text of an event stream, with the message instead of `$`.
fn events(name: &'static str, stream: &'static str) -> OddServer {
    each(name, move |message| {
        Reply::new(200, EVENTS, stream.replace('$', &message).as_bytes())
    })
}

/// A server whose answers to requests are this text, with the message instead of `$`.
fn written(name: &'static str, body: &'static str) -> OddServer {
    each(name, move |message| {
        Reply::new(200, JSON, body.replace('$', &message).as_bytes())
    })
}

/// A server that answers messages of `method` with `reply`.
fn to(
    name: &'static str,
    method: &'static str,
    reply: impl Fn() -> Reply + Send + Sync + 'static,
) -> OddServer {
    odd(name, move |request| (request.method() == method).then(&reply))
}

/// A server whose answer to `method` is usual, but for what `change` makes of the message.
fn changed(name: &'static str, method: &'static str, change: fn(&mut Value)) -> OddServer {
    odd(name, move |request| {
        let is_meant = request.method() == method || method.is_empty() && answer(request).is_some();
        is_meant.then(|| {
            let mut message: Value = serde_json::from_slice(&usual(request).body).unwrap_or_default();
            change(&mut message);
            Reply::json(200, &message)
        })
    })
}

/// The same for the tool that is listed.
fn tool(name: &'static str, change: fn(&mut Value)) -> OddServer {
    odd(name, move |request| {
        (request.method() == "tools/list").then(|| {
            let mut tool = json!({"name": "echo", "inputSchema": {"type": "object"}});
            change(&mut tool);
            request.result(&json!({"tools": [tool]}))
        })
    })
}

/// A server that answers calls with this result.
fn result(name: &'static str, result: Value) -> OddServer {
    odd(name, move |request| {
        (request.method() == "tools/call").then(|| request.result(&result))
    })
}

/// A server that answers calls with this content.
#[expect(
    clippy::needless_pass_by_value,
    reason = "each row of the corpus gives it away"
)]
fn content(name: &'static str, content: Value) -> OddServer {
    result(name, json!({"content": [content]}))
}

fn remove(object: &mut Value, key: &str) {
    object.as_object_mut().and_then(|object| object.remove(key));
}
