//! `tools/call`: what came of it, as the client sees it.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Serialize;

use super::relay;
use super::respond::{self, Body};
use crate::backend::{Answer, BackendError};
use crate::core::{CallError, Core};
use crate::session::store::Unavailable;
use crate::session::{Session, SessionError};
use crate::wire::code;
use crate::wire::jsonrpc::Request;

pub(super) async fn call(
    core: &Core,
    session: &Session,
    body: &Bytes,
    request: &Request<'_>,
) -> Response<Body> {
    match core.call_tool(session, body, request).await {
        Ok((_, Answer::Whole(message))) => respond::json(StatusCode::OK, message),
        Ok((_, Answer::Streaming(first, rest))) => respond::streaming_json(relay::bytes(first, rest)),
        Ok((backend, Answer::Events(events))) => respond::events(relay::events(
            backend.name().clone(),
            events,
            request.id.to_owned(),
        )),
        Err(CallError::Params(fault)) => respond::params_fault(request.id, &fault),
        Err(error @ CallError::UnknownTool(_)) => respond::error(
            StatusCode::OK,
            Some(request.id),
            code::INVALID_PARAMS,
            &error.to_string(),
        ),
        Err(CallError::Backend { backend, error }) => {
            tracing::warn!(%backend, %error, "a call failed");
            tool_error(request, &explain(backend.as_str(), &error))
        }
        Err(CallError::Gone) => respond::session_error(Some(request.id), &SessionError::NotFound),
        Err(CallError::Unavailable(reason)) => {
            respond::store_unavailable(Some(request.id), &Unavailable::new(reason))
        }
    }
}

/// What a person, or a model, should know of a call that failed: where, why, and whether trying again is safe.
pub(super) fn explain(backend: &str, error: &BackendError) -> String {
    let retry = if error.is_retry_safe() {
        "The call was not executed; trying again is safe."
    } else {
        "The call may have been executed; check before trying again."
    };
    format!("The backend {backend} {error}. {retry}")
}

/// A failed call is a result that says so, which models see, and not a JSON-RPC error, which clients hide from them.
fn tool_error(request: &Request<'_>, text: &str) -> Response<Body> {
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
        Ok(result) => respond::result(request.id, &result),
        Err(_) => respond::error(StatusCode::OK, Some(request.id), code::INTERNAL, text),
    }
}
