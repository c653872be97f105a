//! The tools of the conformance suite that answer with fixed content, or send something on the way.

use std::time::Duration;

use http::request::Parts;
use rmcp::model::{
    CallToolResult, ContentBlock, LoggingLevel, LoggingMessageNotificationParam, ProgressNotificationParam,
    ResourceContents, Tool,
};
use serde_json::json;

use super::{Answer, Call, object, plain, text};
use crate::body::Cut;
use crate::resources::{PIXEL, SILENCE};

/// The pause between two notifications that the suite asks for.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) fn list() -> Vec<Tool> {
    vec![
        plain("test_simple_text", "Answers with a text"),
        plain("test_image_content", "Answers with an image"),
        plain("test_audio_content", "Answers with a sound"),
        plain("test_embedded_resource", "Answers with an embedded resource"),
        plain(
            "test_multiple_content_types",
            "Answers with a text, an image and a resource",
        ),
        plain("test_tool_with_logging", "Sends three log messages, then answers"),
        plain(
            "test_tool_with_progress",
            "Reports progress three times, then answers",
        ),
        plain("test_error_handling", "Always fails"),
        plain(
            "test_reconnection",
            "Closes the stream of its call before it answers",
        ),
        json_schema(),
    ]
}

/// A tool whose input schema uses the vocabulary that intermediaries like to drop.
fn json_schema() -> Tool {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            },
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": false,
    });
    Tool::new(
        "json_schema_2020_12_tool",
        "Has an input schema of JSON Schema 2020-12",
        object(schema),
    )
}

pub(super) fn simple_text() -> Answer {
    text("This is a simple text response for testing.")
}

pub(super) fn image() -> Answer {
    Ok(CallToolResult::success(vec![ContentBlock::image(PIXEL, "image/png")]).into())
}

pub(super) fn audio() -> Answer {
    Ok(CallToolResult::success(vec![ContentBlock::audio(SILENCE, "audio/wav")]).into())
}

pub(super) fn embedded_resource() -> Answer {
    let resource = ResourceContents::text(
        "This is an embedded resource content.",
        "test://embedded-resource",
    );
    let block = ContentBlock::resource(resource.with_mime_type("text/plain"));
    Ok(CallToolResult::success(vec![block]).into())
}

pub(super) fn mixed() -> Answer {
    let data = json!({"test": "data", "value": 123}).to_string();
    let resource = ResourceContents::text(data, "test://mixed-content-resource");
    Ok(CallToolResult::success(vec![
        ContentBlock::text("Multiple content types test:"),
        ContentBlock::image(PIXEL, "image/png"),
        ContentBlock::resource(resource.with_mime_type("application/json")),
    ])
    .into())
}

pub(super) fn error() -> Answer {
    let said = ContentBlock::text("This tool intentionally returns an error for testing");
    Ok(CallToolResult::error(vec![said]).into())
}

pub(super) async fn logging(call: &Call<'_>) -> Answer {
    for said in [
        "Tool execution started",
        "Tool processing data",
        "Tool execution completed",
    ] {
        if wants_log(call) {
            let message = LoggingMessageNotificationParam::new(LoggingLevel::Info, json!(said));
            let sent = call
                .context
                .peer
                .notify_logging_message(message.with_logger("test-server"))
                .await;
            if let Err(error) = sent {
                tracing::debug!(%error, "cannot send a log message");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    text("Logged three messages")
}

/// Whether the client wants to see log messages: clients without a session say so with each request.
fn wants_log(call: &Call<'_>) -> bool {
    let meta = &call.context.meta;
    if meta.protocol_version().is_some() {
        meta.log_level()
            .is_some_and(|floor| LoggingLevel::Info as u8 >= floor as u8)
    } else {
        call.server.session.wants(LoggingLevel::Info)
    }
}

pub(super) async fn progress(call: &Call<'_>) -> Answer {
    let token = call.context.meta.get_progress_token();
    for progress in [0.0, 50.0, 100.0] {
        if let Some(token) = token.clone() {
            let progress = ProgressNotificationParam::new(token, progress).with_total(100.0);
            if let Err(error) = call.context.peer.notify_progress(progress).await {
                tracing::debug!(%error, "cannot report progress");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    text("Reported progress three times")
}

/// Responds after it has closed the connection: the client has to resume the stream with the last event id that it saw.
pub(super) async fn reconnection(call: &Call<'_>) -> Answer {
    tokio::time::sleep(PAUSE).await;
    let parts = call.context.extensions.get::<Parts>();
    if let Some(cut) = parts.and_then(|parts| parts.extensions.get::<Cut>()) {
        cut.cut();
    }
    tokio::time::sleep(2 * PAUSE).await;
    text("Reconnection test completed successfully")
}
