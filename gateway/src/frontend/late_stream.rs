//! Turns a slow response into an event stream, whose comments keep proxies and clients from closing a silent
//! connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use http::{Response, StatusCode};

use super::Frontend;
use super::batch::{self, BatchResponse};
use super::keep_alive::keep_alive_chunks;
use crate::budget::delivery::Delivery;
use crate::frontend::access_log::FailureSlot;
use crate::frontend::header_checks::ResponseFormats;
use crate::frontend::request_context::RequestContext;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::session::Session;

impl Frontend {
    /// Runs the request in `body`. If the response has not begun after `stream_after`, an event stream begins
    /// and the response is sent on it. `guard` is kept until the response has been sent.
    pub(super) async fn run_streaming_after<G: Send + 'static>(
        &self,
        context: &Arc<RequestContext>,
        session: &Session,
        body: &Bytes,
        stream_after: Duration,
        guard: G,
    ) -> Response<ResponseBody> {
        let delivery = Delivery::default();
        let (frontend, session_of_it) = (self.clone(), session.clone());
        let mut answering = batch::run_part(
            frontend,
            Arc::clone(context),
            session_of_it,
            body.clone(),
            ResponseFormats::Any,
            delivery.clone(),
        );
        let response = match tokio::time::timeout(stream_after, &mut answering).await {
            Ok((_, response)) => response,
            Err(_) => {
                let failure = FailureSlot::default();
                let collected = failure.clone();
                let events = stream::once(answering).flat_map(move |(id, mut answer)| {
                    collected.take(&mut answer);
                    batch::chunks(as_events((id, answer)))
                });
                let mut response = response::events(keep_alive_chunks(session.clone(), events));
                response.extensions_mut().insert(failure);
                response::with_delivery(delivery, response)
            }
        };
        response::hold_until_sent(response, guard)
    }
}

/// Adapts a response to a stream that is already open. The status can no longer say that the session is gone,
/// so that the error goes to the waiting request id.
pub(super) fn in_stream((id, answer): BatchResponse) -> Response<ResponseBody> {
    if answer.status() == StatusCode::NOT_FOUND {
        return response::session_ended(id.as_deref());
    }
    answer
}

/// As [`in_stream`], encoded as an event stream.
fn as_events(answer: BatchResponse) -> Response<ResponseBody> {
    let answer = in_stream(answer);
    if batch::is_stream(&answer) {
        answer
    } else {
        response::events(batch::encode_events(answer))
    }
}
