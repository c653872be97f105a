//! An answer that takes long, as a stream: its comments keep proxies and clients from taking a silent connection for dead.

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
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::session::Session;

/// Whether requests of this method go to a backend and may take long.
pub(super) fn is_call(method: &str) -> bool {
    matches!(
        method,
        "tools/call" | "prompts/get" | "resources/read" | "completion/complete"
    )
}

impl Frontend {
    /// Runs the request that came in as `body`. When its answer has not begun within `patience`, a stream begins, and the answer comes on
    /// it. `guard` is kept until the answer has gone out.
    pub(super) async fn run_with_patience<G: Send + 'static>(
        &self,
        session: &Session,
        body: &Bytes,
        patience: Duration,
        guard: G,
    ) -> Response<ResponseBody> {
        let delivery = Delivery::default();
        let (frontend, session_of_it) = (self.clone(), session.clone());
        let mut answering = batch::answer(
            frontend,
            session_of_it,
            body.clone(),
            ResponseFormats::Any,
            delivery.clone(),
        );
        let response = match tokio::time::timeout(patience, &mut answering).await {
            Ok((_, response)) => response,
            Err(_) => {
                let failure = FailureSlot::default();
                let noted = failure.clone();
                let events = stream::once(answering).flat_map(move |(id, mut answer)| {
                    noted.take(&mut answer);
                    batch::chunks(as_events((id, answer)))
                });
                let mut response = response::events(keep_alive_chunks(session.clone(), events));
                response.extensions_mut().insert(failure);
                response::delivered(delivery, response)
            }
        };
        response::until_its_end(response, guard)
    }
}

/// An answer on a stream that is open. There the status can no longer say that the session is gone, and a client that waits for this id
/// must get it.
pub(super) fn in_stream((id, answer): BatchResponse) -> Response<ResponseBody> {
    if answer.status() == StatusCode::NOT_FOUND {
        return response::session_ended(id.as_deref());
    }
    answer
}

/// The same, as a stream.
fn as_events(answer: BatchResponse) -> Response<ResponseBody> {
    let answer = in_stream(answer);
    if batch::is_stream(&answer) {
        answer
    } else {
        response::events(batch::events(answer))
    }
}
