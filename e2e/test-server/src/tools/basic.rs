//! The tools by which a test sees what the gateway did: which session, which headers, how often, how long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use rmcp::ErrorData;
use rmcp::model::{CallToolResult, ContentBlock, ProgressNotificationParam, Tool};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Call, object, plain, text, tool};
use crate::listen::Connection;

pub(super) fn list() -> Vec<Tool> {
    let message = json!({"message": {"type": "string", "description": "What to say"}});
    let echoed = json!({"type": "object", "properties": message, "required": ["message"]});
    let ms = json!({"type": "integer", "minimum": 0, "description": "Milliseconds"});
    let bytes = json!({"type": "integer", "minimum": 0, "description": "Size of the text"});
    let steps = json!({"type": "integer", "minimum": 0, "description": "Number of notifications"});
    vec![
        tool("echo", "Says the message again", &message, &["message"])
            .with_raw_output_schema(Arc::new(object(echoed))),
        plain("counter", "Counts the calls of this session: 1, 2, 3"),
        tool("sleep", "Answers after a while", &json!({"ms": ms}), &["ms"]),
        tool(
            "big",
            "Answers with a text of a given size",
            &json!({"bytes": bytes}),
            &["bytes"],
        ),
        plain(
            "whoami",
            "Tells the request headers, the session and the client that it sees",
        ),
        tool(
            "stream_progress",
            "Reports progress in steps, then answers",
            &json!({"steps": steps, "ms": ms}),
            &["steps", "ms"],
        ),
    ]
}

#[derive(Deserialize)]
struct Echo {
    message: String,
}

pub(super) fn echo(call: &Call<'_>) -> Answer {
    let Echo { message } = call.arguments()?;
    let mut result = CallToolResult::success(vec![ContentBlock::text(message.clone())]);
    result.structured_content = Some(json!({"message": message}));
    Ok(result.into())
}

pub(super) fn counter(call: &Call<'_>) -> Answer {
    // Without a session id there is no session whose calls could be counted, only the server's.
    let session = match session_id(call) {
        Some(_) => &call.server.session,
        None => &call.server.shared.sessionless,
    };
    text(session.next().to_string())
}

#[derive(Deserialize)]
struct Sleep {
    ms: u64,
}

pub(super) async fn sleep(call: &Call<'_>) -> Answer {
    let Sleep { ms } = call.arguments()?;
    pause(call, ms).await?;
    text(format!("slept {ms} ms"))
}

#[derive(Deserialize)]
struct Big {
    bytes: usize,
}

pub(super) fn big(call: &Call<'_>) -> Answer {
    let Big { bytes } = call.arguments()?;
    text("x".repeat(bytes))
}

pub(super) fn whoami(call: &Call<'_>) -> Answer {
    let parts = call.context.extensions.get::<Parts>();
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in parts.iter().flat_map(|parts| &parts.headers) {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.to_string())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert_with(|| value.to_string());
    }
    let peer = parts
        .and_then(|parts| parts.extensions.get::<Connection>())
        .map(|connection| connection.peer);
    let seen = json!({
        "name": call.server.shared.args.name,
        "session": session_id(call),
        "headers": headers,
        "peer": peer,
        "protocol_version": call.context.protocol_version(),
        "client_info": call.context.client_info(),
        "client_capabilities": call.context.client_capabilities(),
    });
    text(seen.to_string())
}

#[derive(Deserialize)]
struct StreamProgress {
    steps: u32,
    ms: u64,
}

pub(super) async fn stream_progress(call: &Call<'_>) -> Answer {
    let StreamProgress { steps, ms } = call.arguments()?;
    let token = call.context.meta.get_progress_token();
    for step in 1..=steps {
        pause(call, ms).await?;
        let Some(token) = token.clone() else { continue };
        let progress = ProgressNotificationParam::new(token, f64::from(step))
            .with_total(f64::from(steps))
            .with_message(format!("step {step} of {steps}"));
        if let Err(error) = call.context.peer.notify_progress(progress).await {
            tracing::debug!(%error, "cannot report progress");
        }
    }
    text(format!("{steps} steps"))
}

fn session_id<'a>(call: &'a Call<'_>) -> Option<&'a str> {
    let parts = call.context.extensions.get::<Parts>()?;
    parts.headers.get("mcp-session-id")?.to_str().ok()
}

/// Sleeps, unless the client cancels. rmcp drops the response then, so that no client sees the error.
async fn pause(call: &Call<'_>, ms: u64) -> Result<(), ErrorData> {
    let sleep = tokio::time::sleep(Duration::from_millis(ms));
    if call.context.ct.run_until_cancelled(sleep).await.is_some() {
        return Ok(());
    }
    call.server.shared.stats.cancelled();
    Err(ErrorData::internal_error("The call was cancelled", None))
}
