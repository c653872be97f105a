//! Error responses to calls that have no result: the one place where an error of a backend becomes an answer to the client.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::backend::BackendError;
use crate::core::{CallError, CallSubject};
use crate::frontend::access_log::{CallFailure, FailureSlot};
use crate::frontend::rejection::Rejection;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::error_code;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::Request;
use crate::runtime::truncate::head;
use crate::session::store::StoreError;

/// Result of `completion/complete` where no backend offers completions.
const NO_COMPLETION: &[u8] = br#"{"completion":{"values":[],"total":0,"hasMore":false}}"#;
/// Longest URI that is repeated in an error message. No resource has a longer one.
const MAX_URI_BYTES: usize = 8 * 1024;

/// The error response to a call that has no result.
pub(super) fn error_response(
    subject: CallSubject,
    request: &Request<'_>,
    error: CallError,
) -> Response<ResponseBody> {
    let reject = |rejection: Rejection, message: &str| rejection.response(Some(request.id), message);
    match error {
        CallError::Params(fault) => response::invalid_params(request.id, &fault),
        CallError::Unknown {
            subject: CallSubject::Resource,
            name,
        } => {
            let message = format!("Resource not found: {name}");
            let data = serde_json::json!({"uri": head(&name, MAX_URI_BYTES)});
            Rejection::ResourceNotFound.response_with_data(Some(request.id), &message, &data)
        }
        error @ CallError::Unknown { .. } => reject(Rejection::InvalidParams, &error.to_string()),
        error @ CallError::Undiscovered(_) => reject(Rejection::BackendNotDiscovered, &error.to_string()),
        CallError::NoCompletion(_) => response::result(request.id, NO_COMPLETION),
        error @ CallError::Backend {
            error: BackendError::Overloaded(_) | BackendError::TooManyProcesses(_),
            ..
        } => reject(Rejection::BackendOverloaded, &explain(&error)),
        error @ CallError::Backend { .. } => {
            let text = explain(&error);
            let mut response = match subject {
                CallSubject::Tool => tool_error(request, &text),
                CallSubject::Prompt | CallSubject::Resource | CallSubject::Completion => {
                    reject(Rejection::BackendFailed, &text)
                }
            };
            if let CallError::Backend { backend, error, .. } = error {
                let error = error.to_string();
                let failure = FailureSlot::of(CallFailure { backend, error });
                response.extensions_mut().insert(failure);
            }
            response
        }
        CallError::Gone => response::session_not_found(),
        CallError::Unavailable(reason) => {
            response::store_unavailable(Some(request.id), &StoreError::unavailable(reason))
        }
    }
}

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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::BackendName;

    async fn error_of(subject: CallSubject, error: CallError) -> (u16, Value) {
        let message = br#"{"jsonrpc":"2.0","id":"a","method":"x"}"#;
        let Ok(jsonrpc::Message::Request(request)) = jsonrpc::Message::parse(message) else {
            panic!("no request")
        };
        let response = error_response(subject, &request, error);
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.ok().unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["id"], "a");
        (status, body)
    }

    /// An error about a backend that has not been discovered names the backend, and does not call the tool
    /// unknown.
    #[tokio::test]
    async fn undiscovered_backend_is_named_in_the_error() {
        let error = CallError::Undiscovered(BackendName::for_test("slow"));
        let (status, body) = error_of(CallSubject::Tool, error).await;
        assert_eq!((status, &body["error"]["code"]), (200, &json!(-32603)));
        assert_eq!(
            body["error"]["message"],
            "backend slow is not known yet; try again"
        );
    }

    /// An overloaded backend gives 503 with the advice to retry; an open circuit gives a tool result that
    /// models see.
    #[tokio::test]
    async fn overloaded_gets_503_and_open_circuit_a_tool_error() {
        let failed = |error| CallError::Backend {
            backend: BackendName::for_test("busy"),
            error,
            sent: false,
        };
        for subject in [CallSubject::Tool, CallSubject::Prompt] {
            let (status, body) = error_of(subject, failed(BackendError::Overloaded(3))).await;
            assert_eq!((status, &body["error"]["code"]), (503, &json!(-32603)));
            let message = body["error"]["message"].as_str().unwrap();
            assert!(
                message.contains("busy has 3 calls running") && message.contains("safe"),
                "{message}"
            );
        }
        let open = || BackendError::CircuitOpen {
            reason: "cannot be reached: refused".to_owned(),
        };
        let (status, body) = error_of(CallSubject::Tool, failed(open())).await;
        assert_eq!((status, &body["result"]["isError"]), (200, &json!(true)));
        let text = body["result"]["content"][0]["text"].as_str().unwrap();
        assert!(
            text.contains("busy is not asked") && text.contains("trying again is safe"),
            "{text}"
        );
        let (status, body) = error_of(CallSubject::Resource, failed(open())).await;
        assert_eq!((status, &body["error"]["code"]), (200, &json!(-32603)));
    }

    /// The 404 for a terminated session has a null id.
    #[tokio::test]
    async fn terminated_session_error_has_null_id() {
        let message = br#"{"jsonrpc":"2.0","id":"a","method":"x"}"#;
        let Ok(jsonrpc::Message::Request(request)) = jsonrpc::Message::parse(message) else {
            panic!("no request")
        };
        let response = error_response(CallSubject::Tool, &request, CallError::Gone);
        assert_eq!(response.status(), 404);
        let body = response.into_body().collect().await.ok().unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&body["id"], &body["error"]["code"]),
            (&Value::Null, &json!(-32001))
        );
    }

    /// A completion that the backend does not support is an empty result.
    #[tokio::test]
    async fn unsupported_completion_returns_no_values() {
        let error = CallError::NoCompletion(BackendName::for_test("a"));
        let (status, body) = error_of(CallSubject::Completion, error).await;
        assert_eq!(status, 200);
        assert_eq!(body["result"]["completion"]["values"], json!([]));
    }
}
