//! Runs `tools/call`, `prompts/get`, `resources/read` and `completion/complete`, and turns their outcome into
//! a response.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;

use super::Frontend;
use super::keep_alive::keep_alive;
use super::post::SessionRequest;
use super::relay::{Relay, RelayScope, RelayedCall};
use crate::backend::{BackendError, BackendResponse};
use crate::core::{CallError, CallSubject, Caller, RoutedCall};
use crate::frontend::access_log::{CallFailure, FailureSlot};
use crate::frontend::call_error::{explain, tool_error};
use crate::frontend::header_checks::ResponseFormats;
use crate::frontend::passthrough;
use crate::frontend::rejection::Rejection;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::frontend::rewrite::rewrite_elicitation_ids;
use crate::mcp::jsonrpc::Request;
use crate::runtime::truncate::head;
use crate::session::store::StoreError;

/// Result of `completion/complete` where no backend offers completions.
const NO_COMPLETION: &[u8] = br#"{"completion":{"values":[],"total":0,"hasMore":false}}"#;

/// Longest URI that is repeated in an error message. No resource has a longer one.
const MAX_URI_BYTES: usize = 8 * 1024;

impl Frontend {
    /// Runs one call of `caller`, which came in as `body`.
    pub(super) async fn call(
        &self,
        subject: CallSubject,
        caller: &impl Caller,
        body: &Bytes,
        incoming: &SessionRequest<'_>,
    ) -> Response<ResponseBody> {
        let SessionRequest {
            context,
            request,
            running,
            upstream_id,
            formats,
            delivery,
            ..
        } = *incoming;
        if !context.hot.aggregation.offers(subject.capability()) {
            return response::method_not_found(request);
        }
        let catalog = caller
            .catalog_to_find(subject, request.params, &context.passed)
            .await;
        let routed = self.core.route(&catalog, subject, body, request);
        let shared = routed.as_ref().ok();
        let shared = shared.and_then(|routed| upstream_id.in_shared_session(&routed.backend));
        let upstream_id = shared.as_ref().unwrap_or(upstream_id);
        let incoming = &SessionRequest {
            upstream_id,
            ..*incoming
        };
        let prepare = |routed| upstream_id.apply(caller.prepare_call(routed, &context.passed));
        let routed = match routed.and_then(prepare) {
            Ok(routed) => routed,
            Err(error) => return error_response(subject, request, error),
        };
        let id = upstream_id.get(request.id);
        upstream_id.record_sent(routed.deadline.at());
        let reply = match self.core.send(caller, &routed, id).await {
            Ok(reply) => reply,
            Err(error) => {
                upstream_id.record_failure(&error);
                return error_response(subject, request, error);
            }
        };
        if !matches!(reply.answer, BackendResponse::Events(..)) {
            upstream_id.record_finished();
        }
        let answer = match reply.answer {
            // A passed-through body is not parsed, and therefore keeps the id that it has.
            answer @ (BackendResponse::Whole(_) | BackendResponse::Streaming(..))
                if !upstream_id.is_unchanged() =>
            {
                Box::pin(self.read_whole(answer, &routed, incoming))
                    .await
                    .map(BackendResponse::Whole)
            }
            answer @ BackendResponse::Events(..) if formats == ResponseFormats::Json => {
                Box::pin(self.read_whole(answer, &routed, incoming))
                    .await
                    .map(BackendResponse::Whole)
            }
            answer => Ok(answer),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return error_response(subject, request, error),
        };
        let response = match answer {
            BackendResponse::Whole(message) => {
                let message = rewrite_elicitation_ids(caller, &routed.backend, message, request.id);
                if let Some(delivery) = delivery {
                    delivery.allow_until(routed.deadline.at());
                }
                return response::complete_message(message, routed.backend.account(), delivery);
            }
            BackendResponse::Streaming(first, rest) => {
                let passing =
                    passthrough::PassthroughBody::new(&self.metrics, &routed, running.session_end());
                let delivery = delivery.cloned().unwrap_or_default();
                delivery.extend(routed.deadline.at());
                let first = delivery.track(routed.backend.account(), first);
                response::with_delivery(delivery, response::streaming_json(passing.bytes(first, rest)))
            }
            BackendResponse::Events(upstream, events) => {
                let call = RelayedCall {
                    backend: routed.backend,
                    upstream: *upstream,
                    id: request.id.to_owned(),
                    upstream_id: upstream_id.clone(),
                    subject: Some(subject),
                    deadline: routed.deadline,
                };
                let delivery = delivery.cloned().unwrap_or_default();
                let scope = RelayScope {
                    core: self.core.clone(),
                    hot: Arc::clone(&context.hot),
                    caller: caller.clone(),
                    session_end: running.session_end(),
                };
                let relay = Relay::new(scope, call, delivery.clone());
                let events = keep_alive(caller.clone(), relay.relay_open(*events));
                response::with_delivery(delivery, response::events(events))
            }
        };
        response::hold_until_sent(response, reply.admitted)
    }

    /// Reads the response as one message with the client's id. Requests and notifications of the backend on
    /// the way are dropped. At the deadline, the call is cancelled at a backend that has begun a stream.
    pub(super) async fn read_whole(
        &self,
        answer: BackendResponse,
        routed: &RoutedCall,
        incoming: &SessionRequest<'_>,
    ) -> Result<Bytes, CallError> {
        let (id, backend) = (incoming.upstream_id.get(incoming.request.id), &routed.backend);
        let streamed_in = match &answer {
            BackendResponse::Events(upstream, _) => Some(upstream.clone()),
            BackendResponse::Whole(_) | BackendResponse::Streaming(..) => None,
        };
        let whole = tokio::time::timeout_at(routed.deadline.at(), answer.whole(id)).await;
        let message = whole.unwrap_or_else(|_| {
            if let Some(upstream) = streamed_in {
                self.core.cancel(backend, *upstream, id);
            }
            Err(routed.deadline.passed())
        });
        if message.is_ok() {
            incoming.upstream_id.record_finished();
        }
        let account = backend.account();
        let message = message.and_then(|message| {
            incoming
                .upstream_id
                .restore(message, incoming.request.id, account)
        });
        message.map_err(|error| CallError::sent(backend, error))
    }
}

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
            error: BackendError::Overloaded(_),
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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::BackendName;
    use crate::mcp::jsonrpc;

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
