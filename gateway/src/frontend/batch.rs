//! JSON-RPC batches: several messages in one body. Only revision 2025-03-26 defines them; the TypeScript SDKs accept
//! them in sessions of every revision, and so does the gateway.
//!
//! Each message is handled as if it had come alone. Notifications and responses are delivered first; then the
//! requests run, a few at a time. While all responses are whole messages they are collected into one array.
//! As soon as one of them is a stream, the whole response becomes a stream: a backend may ask the client
//! something on it, and must not wait for the other requests of the batch. First the collected responses are
//! sent, then the events of all others as they come ([`MergedEvents`]). The events have no ids, because an id can
//! name a position in one response only.

// The input comes from untrusted clients.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, join_all};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, Stream, StreamExt as _};
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt as _, Either};
use serde_json::value::RawValue;

use super::Frontend;
use crate::budget::delivery::Delivery;
use crate::frontend::access_log::FailureSlot;
use crate::frontend::admission::RequestPermit;
use crate::frontend::header_checks::ResponseFormats;
use crate::frontend::late_stream::in_stream;
use crate::frontend::merged_events::MergedEvents;
use crate::frontend::rejection::Rejection;
use crate::frontend::request_context::RequestContext;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::frontend::streamed_body::StreamedBody;
use crate::mcp::header_names as mcp;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::Message;
use crate::mcp::method::Method;
use crate::runtime::BoxError;
use crate::session::Session;

/// Requests of one batch that run at a time.
const MAX_CONCURRENT: usize = 8;

/// The id of a request, and its response.
pub(super) type BatchResponse = (Option<Box<RawValue>>, Response<ResponseBody>);
/// Bytes charged to the budget for each response of a batch.
const BYTES_PER_RESPONSE: usize = 1024;

pub(super) type Chunks = BoxStream<'static, Result<Bytes, BoxError>>;

/// The messages of a batch by kind; each keeps its own bytes.
#[derive(Default)]
struct SortedBatch {
    requests: Vec<Bytes>,
    others: Vec<Bytes>,
    /// The error responses to the malformed messages.
    rejections: Vec<Response<ResponseBody>>,
}

impl Frontend {
    pub(super) async fn batch(
        &self,
        context: &Arc<RequestContext>,
        body: &Bytes,
        formats: ResponseFormats,
        permit: RequestPermit,
    ) -> Response<ResponseBody> {
        let session = match self.session(context, None).await {
            Ok(session) => session,
            Err(rejection) => return rejection,
        };
        let sorted = match sort_messages(body) {
            Ok(sorted) => sorted,
            Err(rejection) => return rejection,
        };
        if !sorted.requests.is_empty() && !permit.can_run_request() {
            return response::overloaded(None);
        }
        // Charges the array itself. The responses in it are charged where they are made.
        let array_bytes = sorted.requests.len().saturating_mul(BYTES_PER_RESPONSE);
        let Some(reserved) = self
            .accounts
            .account(self.core.budget(), &context.principal)
            .reserve_or_wait(array_bytes)
            .await
        else {
            return response::budget_exhausted();
        };
        let deliveries = sorted
            .others
            .iter()
            .map(|message| self.deliver_part(context, &session, message));
        let rejected = join_all(deliveries).await.into_iter().flatten();
        let mut whole: Vec<_> = sorted.rejections.into_iter().chain(rejected).collect();
        if sorted.requests.is_empty() {
            return if whole.is_empty() {
                response::accepted()
            } else {
                // The batch has no requests, so that the status of the rejected message can be the status of
                // the batch.
                whole.swap_remove(0)
            };
        }
        let (frontend, context) = (self.clone(), Arc::clone(context));
        // All responses share one delivery deadline and one failure slot.
        let (delivery, failure) = (Delivery::default(), FailureSlot::default());
        let (whole_delivery, collected) = (delivery.clone(), failure.clone());
        let responses = stream::iter(sorted.requests)
            .map(move |request| {
                let part = whole_delivery.part();
                let response = run_part(
                    frontend.clone(),
                    Arc::clone(&context),
                    session.clone(),
                    request,
                    formats,
                    part.clone(),
                );
                response.map(|response| (response, part))
            })
            .buffer_unordered(MAX_CONCURRENT)
            .map(move |((id, mut answer), part)| {
                collected.take(&mut answer);
                ((id, answer), part)
            });
        let mut responses = Box::pin(responses);
        let mut response = loop {
            match responses.next().await {
                None => break response::streaming_json(encode_array(whole)),
                // The session is gone for every message of the batch.
                Some(((_, answer), _)) if answer.status() == StatusCode::NOT_FOUND => break answer,
                Some(((_, answer), part)) if is_stream(&answer) => {
                    let first = stream::iter(whole).chain(stream::iter([hold_part(answer, part)]));
                    let rest = responses.map(|(answer, part)| hold_part(in_stream(answer), part));
                    break response::events(MergedEvents::new(first.chain(rest)));
                }
                Some(((_, answer), part)) => whole.push(hold_part(answer, part)),
            }
        };
        response.extensions_mut().insert(failure);
        response::hold_until_sent(response::with_delivery(delivery, response), (permit, reserved))
    }

    /// Delivers a notification or a response, and returns the rejection if there is one.
    async fn deliver_part(
        &self,
        context: &RequestContext,
        session: &Session,
        message: &Bytes,
    ) -> Option<Response<ResponseBody>> {
        match Message::parse(message) {
            Ok(parsed) => self.deliver(context, session, message, &parsed).await.err(),
            Err(fault) => Some(response::malformed_message(message, &fault)),
        }
    }
}

/// Runs one request of the batch; its response shares `delivery`.
pub(super) fn run_part(
    frontend: Frontend,
    context: Arc<RequestContext>,
    session: Session,
    message: Bytes,
    formats: ResponseFormats,
    delivery: Delivery,
) -> BoxFuture<'static, BatchResponse> {
    async move {
        match Message::parse(&message) {
            Ok(Message::Request(request)) => {
                let answer = frontend.run(
                    &context,
                    &session,
                    &message,
                    &request,
                    Method::parse(&request.method),
                    formats,
                    Some(&delivery),
                    (),
                );
                let answer = answer.await;
                (Some(request.id.to_owned()), answer)
            }
            Ok(Message::Notification { .. } | Message::Response(_)) => (None, response::accepted()),
            Err(fault) => (None, response::malformed_message(&message, &fault)),
        }
    }
    .boxed()
}

fn sort_messages(body: &Bytes) -> Result<SortedBatch, Response<ResponseBody>> {
    let entries = jsonrpc::batch(body).map_err(|fault| response::invalid_message(&fault))?;
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
            Ok(Message::Notification { .. } | Message::Response(_)) => sorted.others.push(bytes),
            Err(fault) => sorted
                .rejections
                .push(response::malformed_message(entry.get().as_bytes(), &fault)),
        }
    }
    Ok(sorted)
}

fn invalid(message: &str) -> Response<ResponseBody> {
    Rejection::InvalidBatch.response(None, message)
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

/// Keeps `part` until the whole response has been taken.
fn hold_part(response: Response<ResponseBody>, part: Delivery) -> Response<ResponseBody> {
    let (head, body) = response.into_parts();
    let streamed = StreamedBody::new(chunks(Response::new(body)));
    response::hold_until_sent(
        Response::from_parts(head, Either::Right(Box::new(streamed))),
        part,
    )
}

/// Collects the responses into one array.
fn encode_array(
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

/// The events of one response.
pub(super) fn encode_events(answer: Response<ResponseBody>) -> Chunks {
    if is_stream(&answer) {
        return chunks(answer).map(|chunk| chunk.map(without_id)).boxed();
    }
    let one = |text: &'static [u8]| stream::iter([Ok(Bytes::from_static(text))]);
    let data = chunks(answer).map(|chunk| chunk.map(|chunk| encode_data_lines(&chunk)));
    one(b"event: message\ndata: ")
        .chain(data)
        .chain(one(b"\n\n"))
        .boxed()
}

/// Removes the id from an event. Events that the gateway encodes have their id in the first line.
fn without_id(event: Bytes) -> Bytes {
    let end = event.iter().position(|byte| *byte == b'\n');
    match end.filter(|_| event.starts_with(b"id:")) {
        Some(end) => event.slice(end.saturating_add(1)..),
        None => event,
    }
}

/// Prefixes every line of a piece of event data with `data:`.
fn encode_data_lines(chunk: &Bytes) -> Bytes {
    if !chunk.contains(&b'\n') && !chunk.contains(&b'\r') {
        return chunk.clone();
    }
    let mut lines = BytesMut::with_capacity(chunk.len().saturating_add(64));
    for byte in chunk {
        match byte {
            b'\n' => lines.extend_from_slice(b"\ndata: "),
            // A carriage return would end the line, too. JSON allows it between tokens only, where it can be
            // dropped.
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

    /// Complete responses are collected into one JSON array.
    #[tokio::test]
    async fn batch_of_complete_responses_is_one_array() {
        assert_eq!(
            text(encode_array(vec![whole("{\"a\":1}"), whole("{}")])).await,
            "[{\"a\":1},{}]"
        );
    }

    /// A complete response becomes one event, with a data line for each of its lines.
    #[tokio::test]
    async fn complete_response_with_newlines_is_one_event() {
        assert_eq!(
            text(encode_events(whole("{\r\n\"a\":\n1}"))).await,
            "event: message\ndata: {\ndata: \"a\":\ndata: 1}\n\n"
        );
    }

    /// Events of a stream lose their ids and keep every other byte.
    #[tokio::test]
    async fn streamed_events_lose_only_their_ids() {
        let written = [
            "id: x\nevent: message\ndata: {\"id: 1\":2}\n\n",
            ": keep-alive\n\n",
            "data: id: y\n\n",
        ];
        let stream = stream::iter(written.map(|event| Ok(Bytes::from_static(event.as_bytes()))));
        let read = text(encode_events(response::events(stream))).await;
        assert_eq!(
            read,
            "event: message\ndata: {\"id: 1\":2}\n\n: keep-alive\n\ndata: id: y\n\n"
        );
    }
}
