//! A batch: several messages in one body, as revision 2025-03-26 has them and no other.
//!
//! Each message is treated as if it had come alone. Messages that want no answer go first; then the requests run, some at a time. As long
//! as their answers are whole they are gathered into one array. As soon as one of them is a stream the answer becomes a stream, so that what
//! a backend asks on it is asked before the other requests have ended: first what was gathered, then each answer as it begins, one
//! after the other. Its events have no ids, because an id could name the place in one of the answers only.

// Strangers send what is read here.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, join_all};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, Stream, StreamExt as _};
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::value::RawValue;

use super::Frontend;
use crate::budget::delivery::Delivery;
use crate::core::Principal;
use crate::frontend::access_log::FailureSlot;
use crate::frontend::admission::RequestPermit;
use crate::frontend::header_checks::ResponseFormats;
use crate::frontend::late_stream::in_stream;
use crate::frontend::response;
use crate::frontend::response::{BoxError, ResponseBody};
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::Message;
use crate::mcp::revision::Revision;
use crate::mcp::{error_code, header_names as mcp};
use crate::session::Session;

/// How many requests of a batch run at a time.
const CONCURRENT: usize = 8;

/// The answer to one message, and the id of the request that the message is.
pub(super) type BatchResponse = (Option<Box<RawValue>>, Response<ResponseBody>);
/// What is reserved for each answer of a batch.
const GATHERED_BYTES: usize = 1024;

pub(super) type Chunks = BoxStream<'static, Result<Bytes, BoxError>>;

/// What a batch holds, each message in its own bytes.
#[derive(Default)]
struct SortedBatch {
    requests: Vec<Bytes>,
    one_way: Vec<Bytes>,
    /// The answers to what is no message.
    faults: Vec<Response<ResponseBody>>,
}

impl Frontend {
    pub(super) async fn batch(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        framing: ResponseFormats,
        principal: &Principal,
        place: RequestPermit,
    ) -> Response<ResponseBody> {
        let session = match self.session(headers, None, principal).await {
            Ok(session) => session,
            Err(refusal) => return refusal,
        };
        if session.revision() != Revision::V2025_03_26 {
            let message =
                "A batch is allowed in sessions of revision 2025-03-26 only; send one message per request";
            return invalid(message);
        }
        let sorted = match sort(body) {
            Ok(sorted) => sorted,
            Err(refusal) => return refusal,
        };
        if !sorted.requests.is_empty() && !place.is_for_requests() {
            return response::overloaded(None);
        }
        // For the answers that are gathered, beside what they hold: each of those has its place where it comes from.
        let gathered = sorted.requests.len().saturating_mul(GATHERED_BYTES);
        let Some(reserved) = self
            .principals
            .account(self.core.budget(), principal)
            .reserve_or_wait(gathered)
            .await
        else {
            return response::no_room();
        };
        let told = sorted.one_way.iter().map(|message| self.tell(&session, message));
        let untold = join_all(told).await.into_iter().flatten();
        let mut whole: Vec<_> = sorted.faults.into_iter().chain(untold).collect();
        if sorted.requests.is_empty() {
            return if whole.is_empty() {
                response::accepted()
            } else {
                // Nothing else is answered here, so that the status can say what went wrong.
                whole.swap_remove(0)
            };
        }
        let frontend = self.clone();
        // All answers go out as one.
        let (delivery, failure) = (Delivery::default(), FailureSlot::default());
        let (part, noted) = (delivery.clone(), failure.clone());
        let running = stream::iter(sorted.requests)
            .map(move |request| answer(frontend.clone(), session.clone(), request, framing, part.clone()))
            .buffer_unordered(CONCURRENT)
            .map(move |(id, mut answer)| {
                noted.take(&mut answer);
                (id, answer)
            });
        let mut running = Box::pin(running);
        let mut response = loop {
            match running.next().await {
                None => break response::streaming_json(array(whole)),
                // The session is gone for every message of the batch.
                Some((_, answer)) if answer.status() == StatusCode::NOT_FOUND => break answer,
                Some((_, answer)) if is_stream(&answer) => {
                    let first = stream::iter(whole).chain(stream::iter([answer]));
                    let rest = running.map(in_stream);
                    break response::events(first.chain(rest).flat_map(events));
                }
                Some((_, answer)) => whole.push(answer),
            }
        };
        response.extensions_mut().insert(failure);
        response::until_its_end(response::delivered(delivery, response), (place, reserved))
    }

    /// The refusal of a message that wants no answer, if it is refused.
    async fn tell(&self, session: &Session, message: &Bytes) -> Option<Response<ResponseBody>> {
        match Message::parse(message) {
            Ok(parsed) => self.deliver(session, message, &parsed).await.err(),
            Err(fault) => Some(response::no_message(message, &fault)),
        }
    }
}

/// The answer to a message, as a part of what `delivery` delivers, and the id of the request that it is.
pub(super) fn answer(
    frontend: Frontend,
    session: Session,
    message: Bytes,
    framing: ResponseFormats,
    delivery: Delivery,
) -> BoxFuture<'static, BatchResponse> {
    async move {
        match Message::parse(&message) {
            Ok(Message::Request(request)) => {
                let answer = frontend.run(&session, &message, &request, framing, Some(&delivery), ());
                let answer = answer.await;
                (Some(request.id.to_owned()), answer)
            }
            Ok(Message::Notification { .. } | Message::Response(_)) => (None, response::accepted()),
            Err(fault) => (None, response::no_message(&message, &fault)),
        }
    }
    .boxed()
}

fn sort(body: &Bytes) -> Result<SortedBatch, Response<ResponseBody>> {
    let entries = jsonrpc::batch(body).map_err(|fault| response::fault(&fault))?;
    let mut sorted = SortedBatch::default();
    for entry in entries {
        let bytes = body.slice_ref(entry.get().as_bytes());
        match Message::parse(entry.get().as_bytes()) {
            Ok(Message::Request(request)) if request.method == "initialize" => {
                return Err(invalid(
                    "initialize must not be part of a batch; nothing of it was executed",
                ));
            }
            Ok(Message::Request(_)) => sorted.requests.push(bytes),
            Ok(Message::Notification { .. } | Message::Response(_)) => sorted.one_way.push(bytes),
            Err(fault) => sorted
                .faults
                .push(response::no_message(entry.get().as_bytes(), &fault)),
        }
    }
    Ok(sorted)
}

fn invalid(message: &str) -> Response<ResponseBody> {
    response::error(
        StatusCode::BAD_REQUEST,
        None,
        error_code::INVALID_REQUEST,
        message,
    )
}

pub(super) fn is_stream(response: &Response<ResponseBody>) -> bool {
    mcp::is_media_type(response.headers().get(header::CONTENT_TYPE), &mcp::EVENT_STREAM)
}

pub(super) fn chunks(response: Response<ResponseBody>) -> Chunks {
    response
        .into_body()
        .map_err(Into::into)
        .into_data_stream()
        .boxed()
}

/// The answers as one array.
fn array(
    answers: Vec<Response<ResponseBody>>,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    let one = |text: &'static [u8]| stream::iter([Ok(Bytes::from_static(text))]).boxed();
    let mut parts: Vec<Chunks> = Vec::with_capacity(answers.len().saturating_mul(2).saturating_add(1));
    for (index, answer) in answers.into_iter().enumerate() {
        parts.push(one(if index == 0 { b"[" } else { b"," }));
        parts.push(chunks(answer));
    }
    parts.push(one(b"]"));
    stream::iter(parts).flatten()
}

/// One answer as events.
pub(super) fn events(answer: Response<ResponseBody>) -> Chunks {
    if is_stream(&answer) {
        return chunks(answer).map(|chunk| chunk.map(without_id)).boxed();
    }
    let one = |text: &'static [u8]| stream::iter([Ok(Bytes::from_static(text))]);
    let data = chunks(answer).map(|chunk| chunk.map(|chunk| in_data_lines(&chunk)));
    one(b"event: message\ndata: ")
        .chain(data)
        .chain(one(b"\n\n"))
        .boxed()
}

/// An event as it is encoded here, which has its id in its first line if it has one.
fn without_id(event: Bytes) -> Bytes {
    let end = event.iter().position(|byte| *byte == b'\n');
    match end.filter(|_| event.starts_with(b"id:")) {
        Some(end) => event.slice(end.saturating_add(1)..),
        None => event,
    }
}

/// A piece of an event's data, of which every line must say that it is data.
fn in_data_lines(chunk: &Bytes) -> Bytes {
    if !chunk.contains(&b'\n') && !chunk.contains(&b'\r') {
        return chunk.clone();
    }
    let mut lines = BytesMut::with_capacity(chunk.len().saturating_add(64));
    for byte in chunk {
        match byte {
            b'\n' => lines.extend_from_slice(b"\ndata: "),
            // It would end the line too, and JSON has it between its parts only.
            b'\r' => {}
            other => lines.extend_from_slice(&[*other]),
        }
    }
    lines.freeze()
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;

    async fn text(chunks: impl Stream<Item = Result<Bytes, BoxError>>) -> String {
        let chunks: Vec<Bytes> = chunks.try_collect().await.unwrap();
        String::from_utf8(chunks.concat()).unwrap()
    }

    fn whole(message: &'static str) -> Response<ResponseBody> {
        response::json(StatusCode::OK, Bytes::from_static(message.as_bytes()))
    }

    #[tokio::test]
    async fn whole_answers_are_one_array() {
        assert_eq!(
            text(array(vec![whole("{\"a\":1}"), whole("{}")])).await,
            "[{\"a\":1},{}]"
        );
    }

    #[tokio::test]
    async fn a_whole_answer_is_one_event_whatever_lines_it_has() {
        assert_eq!(
            text(events(whole("{\r\n\"a\":\n1}"))).await,
            "event: message\ndata: {\ndata: \"a\":\ndata: 1}\n\n"
        );
    }

    #[tokio::test]
    async fn the_events_of_a_stream_lose_their_ids_and_nothing_else() {
        let written = [
            "id: x\nevent: message\ndata: {\"id: 1\":2}\n\n",
            ": keep-alive\n\n",
            "data: id: y\n\n",
        ];
        let stream = stream::iter(written.map(|event| Ok(Bytes::from_static(event.as_bytes()))));
        let read = text(events(response::events(stream))).await;
        assert_eq!(
            read,
            "event: message\ndata: {\"id: 1\":2}\n\n: keep-alive\n\ndata: id: y\n\n"
        );
    }
}
