//! Runs `tools/call`, `prompts/get`, `resources/read` and `completion/complete`, and turns their outcome into
//! a response.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;

use super::Frontend;
use super::keep_alive::keep_alive;
use super::post::SessionRequest;
use super::relay::{Relay, RelayScope, RelayedCall};
use crate::backend::BackendResponse;
use crate::core::{CallError, CallSubject, Caller, RoutedCall};
use crate::frontend::call_error::error_response;
use crate::frontend::header_checks::ResponseFormats;
use crate::frontend::passthrough;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::frontend::rewrite::rewrite_elicitation_ids;

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
                let message = rewrite_elicitation_ids(caller, &routed.backend, message);
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
