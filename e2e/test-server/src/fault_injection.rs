//! Applies faults: instead of a response, or to a response.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Collected};
use serde_json::Value;

use crate::faults::{Reset, Rule};
use crate::listen::Connection;
use crate::{reply, sse};

/// How long the head of a response travels before its connection is reset.
const HEAD_START: Duration = Duration::from_millis(20);

impl Rule {
    /// Whether the request gets no normal response.
    pub(crate) fn withholds(&self) -> bool {
        self.hang
            || self.reset == Some(Reset::BeforeHeaders)
            || self.redirect.is_some()
            || self.status.is_some()
            || self.endless_line.is_some()
            || self.not_json
    }

    /// What is sent instead of a response; `None` for the normal response.
    pub(crate) async fn instead(&self, connection: &Connection) -> Option<Response> {
        if self.hang {
            std::future::pending::<()>().await;
        }
        if self.reset == Some(Reset::BeforeHeaders) {
            connection.reset().await;
        }
        if let Some(location) = &self.redirect {
            let mut response = reply::with_type(StatusCode::TEMPORARY_REDIRECT, "text/plain", "");
            response
                .headers_mut()
                .insert(header::LOCATION, HeaderValue::from_str(location).ok()?);
            return Some(response);
        }
        if let Some(status) = self.status {
            let body = r#"{"error":"The test server was asked to fail"}"#;
            let mut response = reply::with_type(status.0, "application/json", body);
            if let Some(when) = &self.retry_after {
                let when = when.as_str().map_or_else(|| when.to_string(), str::to_owned);
                let when = HeaderValue::try_from(when).ok()?;
                response.headers_mut().insert(header::RETRY_AFTER, when);
            }
            return Some(response);
        }
        if let Some(bytes) = self.endless_line {
            return Some(reply::with_type(StatusCode::OK, "text/event-stream", line(bytes)));
        }
        self.not_json
            .then(|| reply::with_type(StatusCode::OK, "application/json", "This is not JSON"))
    }

    /// Applies the faults to a response.
    pub(crate) async fn spoil(&self, mut response: Response, connection: &Connection) -> Response {
        if self.no_event_ids && sse::is_sse(&response) {
            response = response.map(|body| sse::body(sse::events(body).map(|event| without_id(&event))));
        }
        if self.spoils_body() {
            response = if sse::is_sse(&response) {
                self.spoil_stream(response)
            } else {
                self.spoil_document(response).await
            };
        }
        if self.reset == Some(Reset::AfterHeaders) {
            response = reset_after_headers(response, connection.clone());
        }
        if self.wrong_content_type {
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        }
        response
    }

    fn spoils_body(&self) -> bool {
        self.truncate
            || self.wrong_id
            || self.answer.is_some()
            || self.sse_before_answer.is_some()
            || self.two_answers
            || self.sse_without_end
            || self.sse_without_answer
    }

    /// Passes on everything except the response.
    fn spoil_stream(&self, response: Response) -> Response {
        let rule = self.clone();
        let spoil = move |event: Bytes| {
            let answer = sse::message(&event).filter(|message| sse::is_answer(message));
            match answer {
                Some(answer) => {
                    let before = rule.sse_before_answer.as_ref();
                    let before = before.map(|text| Part::Bytes(with_id_of(answer, text)));
                    before
                        .into_iter()
                        .chain(rule.spoil_answer(&event, answer))
                        .collect()
                }
                None => vec![Part::Bytes(event)],
            }
        };
        response.map(|body| broken(sse::events(body).flat_map(move |event| stream::iter(spoil(event)))))
    }

    async fn spoil_document(&self, response: Response) -> Response {
        let (mut parts, body) = response.into_parts();
        // rmcp's bodies do not fail.
        let document = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
        if document.is_empty() {
            return Response::from_parts(parts, Body::empty());
        }
        if self.truncate {
            // A content length that is larger than the body.
            parts
                .headers
                .insert(header::CONTENT_LENGTH, HeaderValue::from(document.len()));
        }
        let spoilt = self.spoil_answer(&document, &document);
        Response::from_parts(parts, broken(stream::iter(spoilt)))
    }

    /// What is sent instead of `sent`, the bytes that carry the JSON-RPC message `answer`.
    fn spoil_answer(&self, sent: &Bytes, answer: &[u8]) -> Vec<Part> {
        if self.sse_without_answer {
            return vec![Part::End];
        }
        let sent = if self.wrong_id {
            with_wrong_id(sent, answer)
        } else {
            sent.clone()
        };
        let sent = match &self.answer {
            Some(text) => replaced(&sent, answer, &with_id_of(answer, text)),
            None => sent,
        };
        if self.truncate {
            return vec![Part::Bytes(sent.slice(..sent.len() / 2)), Part::Break];
        }
        let mut parts = vec![Part::Bytes(sent.clone())];
        if self.two_answers {
            parts.push(Part::Bytes(sent));
        }
        if self.sse_without_end {
            parts.push(Part::Silence);
        }
        parts
    }
}

/// The beginning of a line that goes on for `bytes`, in chunks of which each is made when it is wanted.
fn line(bytes: usize) -> Body {
    const CHUNK: Bytes = Bytes::from_static(&[b'x'; 64 * 1024]);
    let chunks = (0..bytes.div_ceil(CHUNK.len())).map(|_| CHUNK);
    let line = std::iter::once(Bytes::from_static(b"data: ")).chain(chunks);
    Body::from_stream(stream::iter(line.map(Ok::<_, std::convert::Infallible>)))
}

/// A piece of a faulty body.
enum Part {
    Bytes(Bytes),
    /// The body ends here.
    End,
    /// The connection breaks here.
    Break,
    /// The body stays open without further data.
    Silence,
}

/// The body that these parts make.
fn broken(parts: impl futures::Stream<Item = Part> + Send + 'static) -> Body {
    let chunks = parts
        .take_while(|part| std::future::ready(!matches!(part, Part::End)))
        .then(async |part| {
            match part {
                Part::Bytes(bytes) => Ok(bytes),
                Part::End | Part::Break => {
                    // What was sent has to arrive before the connection breaks.
                    tokio::time::sleep(HEAD_START).await;
                    Err("the test server was asked to break off")
                }
                Part::Silence => std::future::pending().await,
            }
        });
    Body::from_stream(chunks)
}

fn reset_after_headers(response: Response, connection: Connection) -> Response {
    response.map(|body| {
        Body::from_stream(
            stream::once(async move {
                // The response is neither read nor dropped, so the call goes on.
                let _unread = body;
                tokio::time::sleep(HEAD_START).await;
                connection.reset().await
            })
            .map(
                |never: std::convert::Infallible| -> Result<Bytes, std::convert::Infallible> {
                    match never {}
                },
            ),
        )
    })
}

/// The event without its id.
fn without_id(event: &[u8]) -> Bytes {
    let lines = event.split_inclusive(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.starts_with(b"id:"))
        .flatten()
        .copied()
        .collect()
}

/// `sent` with the id of the answer in it replaced.
fn with_wrong_id(sent: &Bytes, answer: &[u8]) -> Bytes {
    let Ok(mut message) = serde_json::from_slice::<Value>(answer) else {
        return sent.clone();
    };
    message["id"] = Value::from("an id that nobody asked with");
    replaced(sent, answer, message.to_string().as_bytes())
}

/// `sent` with `text` instead of the response in it.
fn replaced(sent: &Bytes, answer: &[u8], text: &[u8]) -> Bytes {
    let Some(start) = sent.windows(answer.len()).position(|window| window == answer) else {
        return sent.clone();
    };
    [&sent[..start], text, &sent[start + answer.len()..]]
        .concat()
        .into()
}

/// `text` with the id of the answer for `$id`.
fn with_id_of(answer: &[u8], text: &str) -> Bytes {
    let id = serde_json::from_slice(answer).map_or(Value::Null, |answer: Value| answer["id"].clone());
    text.replace("$id", &id.to_string()).into()
}
