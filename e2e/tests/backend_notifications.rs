//! A notification of a backend reaches a client only if it concerns that backend: a call that it received, its own resource, or a resource
//! to which the client subscribed there.

use serde_json::{Value, json};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::Session;
use vmcp_e2e::recording_backend::{BackendReply, RecordingBackend};
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);

/// The token of a call to the honest backend, as its client wrote it.
const TOKEN: i64 = 7;

fn progress(token: &Value, progress: u64) -> Value {
    json!({
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progressToken": token, "progress": progress},
    })
}

fn updated(uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}})
}

fn done() -> Value {
    json!({"content": [{"type": "text", "text": "done"}]})
}

fn offer(resources: &[&str]) -> Value {
    let resource = |uri: &&str| json!({"name": uri, "uri": uri});
    json!({
        "tools": [{"name": "run", "inputSchema": {"type": "object"}}],
        "resources": resources.iter().map(resource).collect::<Vec<_>>(),
    })
}

/// An honest backend, and a nosy one that sends notifications about other backends' calls and resources with each response.
fn start() -> anyhow::Result<(RecordingBackend, RecordingBackend, Gateway)> {
    let honest = RecordingBackend::start(offer(&["honest://a/1"]), |request| {
        let token = &request["params"]["_meta"]["progressToken"];
        BackendReply::Events(vec![progress(token, 1), updated("honest://a/1")], done())
    })?;
    let nosy = RecordingBackend::start(offer(&["nosy://b/1"]), |request| {
        if request["method"] != "tools/call" {
            return BackendReply::Result(json!({}));
        }
        let own = &request["params"]["_meta"]["progressToken"];
        let mut messages = others();
        messages.extend([
            progress(own, 2),
            updated("nosy://b/1"),
            updated("nosy://b/unlisted"),
        ]);
        BackendReply::Events(messages, done())
    })?;
    let recipe = Recipe::new(&[("honest", &honest.url), ("nosy", &nosy.url)])?;
    let gateway = recipe.start()?;
    Ok((honest, nosy, gateway))
}

/// Notifications that do not concern the nosy backend.
fn others() -> Vec<Value> {
    vec![
        progress(&json!(TOKEN), 99),
        progress(&json!(TOKEN + 1), 99),
        progress(&json!("vmcp:tAAAA"), 99),
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": TOKEN, "ProgressToken": 1}}),
        updated("honest://a/1"),
        updated("honest://a/unlisted"),
        updated("nowhere://x"),
        json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "nosy://b/1", "URI": "honest://a/1"}}),
        json!({"jsonrpc": "2.0", "method": "notifications/resources/updated"}),
    ]
}

/// The messages on the stream of a call of `tool` with the progress token `token`.
fn call(gateway: &Gateway, session: &Session, tool: &str, token: i64) -> anyhow::Result<Vec<Value>> {
    let params = json!({"name": tool, "arguments": {}, "_meta": {"progressToken": token}});
    let call = json!({"jsonrpc": "2.0", "id": token, "method": "tools/call", "params": params});
    let mut stream = Stream::post(gateway.mcp, session, &call)?;
    let mut messages = Vec::new();
    while let Some(event) = stream.next_event()? {
        messages.extend(event.message());
    }
    Ok(messages)
}

/// Progress has the client's own token, whatever its type. Notifications about other backends are dropped.
#[test]
fn notifications_about_other_backends_are_dropped() -> anyhow::Result<()> {
    let (_honest, nosy, gateway) = start()?;
    let session = Session::open(gateway.mcp)?;
    let answer = json!({"jsonrpc": "2.0", "id": TOKEN, "result": done()});
    let heard = call(&gateway, &session, "honest_run", TOKEN)?;
    assert_eq!(
        heard,
        [progress(&json!(TOKEN), 1), updated("honest://a/1"), answer]
    );
    let heard = call(&gateway, &session, "nosy_run", TOKEN + 1)?;
    let answer = json!({"jsonrpc": "2.0", "id": TOKEN + 1, "result": done()});
    assert_eq!(
        heard,
        [
            progress(&json!(TOKEN + 1), 2),
            updated("nosy://b/1"),
            updated("nosy://b/unlisted"),
            answer
        ]
    );
    // The same holds for the session's own stream.
    let mut stream = Stream::get(gateway.mcp, &session, None)?;
    wait::until(
        "the gateway listens to the backend in both sessions",
        PATIENCE,
        || {
            let open = nosy.listeners();
            anyhow::ensure!(open >= 2, "{open} are open");
            Ok(())
        },
    )?;
    for message in others() {
        nosy.push(&message);
    }
    nosy.push(&updated("nosy://b/1"));
    assert_eq!(stream.message()?, updated("nosy://b/1"));
    Ok(())
}

/// A subscriber gets updates of the resource and its parts, also when no list contains it any more.
#[test]
fn updates_of_subscribed_resources_pass() -> anyhow::Result<()> {
    let (_honest, nosy, gateway) = start()?;
    let session = Session::open(gateway.mcp)?;
    let subscribed = session.request(gateway.mcp, "resources/subscribe", &json!({"uri": "nosy://b/2"}))?;
    assert_eq!(subscribed.error_code(), 0, "{}", subscribed.text());
    let mut stream = Stream::get(gateway.mcp, &session, None)?;
    wait::until(
        "the gateway listens to the backend in both sessions",
        PATIENCE,
        || {
            anyhow::ensure!(nosy.listeners() >= 2);
            Ok(())
        },
    )?;
    for uri in ["honest://a/1", "nosy://b/2", "nosy://b/2/part"] {
        nosy.push(&updated(uri));
    }
    assert_eq!(stream.message()?, updated("nosy://b/2"));
    assert_eq!(stream.message()?, updated("nosy://b/2/part"));
    Ok(())
}
