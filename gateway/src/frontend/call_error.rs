//! Error responses to a failed tool call.

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

/// Describes a failed call for a person or a model: what failed, why, and whether a retry is safe.
pub(super) fn explain(error: &CallError) -> String {
    let retry = if error.is_retry_safe() {
        "The call was not executed; trying again is safe."
    } else {
        "The call may have been executed; check before trying again."
    };
    match error.detail() {
        Some(said) => format!("The {error}: {}. {retry}", said.trim_end_matches('.')),
        None => format!("The {error}. {retry}"),
    }
}

/// Responds with a tool result that has `isError`. Models see such a result; many clients hide JSON-RPC
/// errors from them.
pub(super) fn tool_error(request: &Request<'_>, text: &str) -> Response<ResponseBody> {
    response::json(StatusCode::OK, tool_error_message(request.id, text))
}

/// The message of [`tool_error`].
pub(super) fn tool_error_message(id: &RawValue, text: &str) -> Bytes {
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
