//! A call of a tool that failed, as the client sees it.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::core::CallError;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::error_code;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::Request;

/// What a person, or a model, should know of a call that failed: where, why, and whether trying again is safe.
pub(super) fn explain(error: &CallError) -> String {
    let retry = if error.is_retry_safe() {
        "The call was not executed; trying again is safe."
    } else {
        "The call may have been executed; check before trying again."
    };
    match error.said() {
        Some(said) => format!("The {error}: {}. {retry}", said.trim_end_matches('.')),
        None => format!("The {error}. {retry}"),
    }
}

/// A failed call is a result that says so, which models see, and not a JSON-RPC error, which clients hide from them.
pub(super) fn tool_error(request: &Request<'_>, text: &str) -> Response<ResponseBody> {
    response::json(StatusCode::OK, tool_failure(request.id, text))
}

/// The same as a message.
pub(super) fn tool_failure(id: &RawValue, text: &str) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct CallToolResult<'a> {
        content: [Text<'a>; 1],
        is_error: bool,
    }
    #[derive(Serialize)]
    struct Text<'a> {
        r#type: &'static str,
        text: &'a str,
    }
    let result = CallToolResult {
        content: [Text { r#type: "text", text }],
        is_error: true,
    };
    match serde_json::to_vec(&result) {
        Ok(result) => jsonrpc::result(id, &result),
        Err(_) => jsonrpc::error(Some(id), error_code::INTERNAL, text),
    }
}
