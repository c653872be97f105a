//! Reads the response to a request, in the framing that the backend chose.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{BackendError, UpstreamBody, UpstreamSession};
use crate::backend::response_events::ResponseEvents;
use crate::budget::{Account, Reservation, UNCOUNTED_BYTES};
use crate::mcp::fast_path::is_answer;
use crate::mcp::jsonrpc::repair::{repaired, without_mark};
use crate::mcp::jsonrpc::{EnvelopeFields, Outcome, Response};
use crate::mcp::splice::splice;

/// A JSON response up to this size is read whole and its envelope is checked. A larger one is streamed.
const CHECKED_BYTES: usize = 256 * 1024;

/// The response to a request, in the backend's framing.
#[derive(Debug)]
pub enum BackendResponse {
    /// One JSON message, verified as the response to the request.
    Whole(Bytes),
    /// One JSON message that is too large to verify: its first bytes, and the rest of the body.
    Streaming(Bytes, Box<UpstreamBody>),
    /// An event stream that contains the response, and the session that it belongs to.
    Events(Box<UpstreamSession>, Box<ResponseEvents>),
}

impl BackendResponse {
    /// Reads the whole response to the request `id`.
    ///
    /// # Errors
    /// When the response is missing or does not answer that request.
    pub async fn whole(self, id: &RawValue) -> Result<Bytes, BackendError> {
        match self {
            Self::Whole(message) => Ok(message),
            Self::Streaming(first, body) => check(collect(first, *body).await?, id),
            Self::Events(_, events) => find(*events, id).await,
        }
    }
}

/// Reads the body of a JSON response.
pub(super) async fn json(mut body: UpstreamBody, id: &RawValue) -> Result<BackendResponse, BackendError> {
    body.check_size()?;
    let expected = usize::try_from(body.expected()).unwrap_or(usize::MAX);
    if expected > CHECKED_BYTES {
        return Ok(BackendResponse::Streaming(Bytes::new(), Box::new(body)));
    }
    let Some(first) = body.chunk().await? else {
        return Err(BackendError::Broken("the answer is empty".to_owned()));
    };
    let first = first.slice_ref(without_mark(&first));
    if body.is_at_end() && first.len() <= UNCOUNTED_BYTES {
        return check(first, id).map(BackendResponse::Whole);
    }
    let mut reserved = reserve(body.account(), first.len()).await?;
    if body.is_at_end() {
        return check(first, id).map(|answer| BackendResponse::Whole(reserved.hold(answer)));
    }
    let mut read = BytesMut::with_capacity(expected.max(first.len() * 2));
    read.extend_from_slice(&first);
    while let Some(chunk) = body.chunk().await? {
        grow(&mut reserved, chunk.len()).await?;
        read.extend_from_slice(&chunk);
        if read.len() > CHECKED_BYTES {
            return Ok(BackendResponse::Streaming(
                reserved.hold(read.freeze()),
                Box::new(body),
            ));
        }
    }
    check(read.freeze(), id).map(|answer| BackendResponse::Whole(reserved.hold(answer)))
}

/// Reserves budget for the first bytes of a response, after a bounded wait.
async fn reserve(account: &Account, bytes: usize) -> Result<Reservation, BackendError> {
    let reserved = account.reserve_or_wait(bytes).await;
    reserved.ok_or_else(|| BackendError::NoRoom(account.limit()))
}

/// Grows a reservation by `bytes`, after a bounded wait.
pub(super) async fn grow(reserved: &mut Reservation, bytes: usize) -> Result<(), BackendError> {
    if reserved.grow_or_wait(bytes).await {
        return Ok(());
    }
    Err(BackendError::NoRoom(reserved.account().limit()))
}

/// The largest response to a request of the gateway itself.
const MAX_OWN_RESPONSE_BYTES: usize = 32 * 1024 * 1024;

/// Reads the rest of a response that the gateway itself needs.
pub(super) async fn collect(first: Bytes, mut body: UpstreamBody) -> Result<Bytes, BackendError> {
    let mut reserved = reserve(body.account(), first.len()).await?;
    let mut read = BytesMut::from(&first[..]);
    while let Some(chunk) = body.chunk().await? {
        grow(&mut reserved, chunk.len()).await?;
        read.extend_from_slice(&chunk);
        if read.len() > MAX_OWN_RESPONSE_BYTES {
            return Err(BackendError::Invalid(format!(
                "it is larger than {MAX_OWN_RESPONSE_BYTES} bytes"
            )));
        }
    }
    Ok(reserved.hold(read.freeze()))
}

/// The role of a message on the stream of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum MessageRole {
    /// The response, with the id as the client wrote it.
    Answer(Bytes),
    /// A malformed response to the request. No other response will come.
    MalformedAnswer(BackendError),
    /// Not a readable JSON-RPC message. The response may still come.
    Unreadable(BackendError),
    /// A request or notification of the backend.
    Other,
}

/// Classifies a message on the stream of the request `id`, which carries requests and notifications of the backend, then the response.
pub(super) fn read(message: &Bytes, id: &RawValue) -> MessageRole {
    match check(message.clone(), id) {
        Ok(answer) => MessageRole::Answer(answer),
        Err(error) => match EnvelopeFields::of(message) {
            Some(fields) if fields.has_method => MessageRole::Other,
            // An empty object is not meant as the response, which may still come.
            Some(fields) if fields.id.is_none() && !fields.has_outcome => MessageRole::Unreadable(error),
            Some(_) => MessageRole::MalformedAnswer(error),
            None => MessageRole::Unreadable(error),
        },
    }
}

/// Waits for the response to the request `id` on its stream.
pub(super) async fn find(mut events: ResponseEvents, id: &RawValue) -> Result<Bytes, BackendError> {
    let mut unreadable = None;
    while let Some(event) = events.next().await? {
        let Some(data) = event.message() else { continue };
        match read(data, id) {
            MessageRole::Answer(answer) => return Ok(answer),
            MessageRole::MalformedAnswer(error) => return Err(error),
            MessageRole::Unreadable(error) => unreadable = Some(error),
            MessageRole::Other => {}
        }
    }
    Err(unreadable.unwrap_or_else(|| BackendError::Broken("the stream ended without the answer".to_owned())))
}

/// The most characters of a backend's error text in an error message.
const MAX_SHOWN_CHARACTERS: usize = 200;

/// Creates the error for a response with another id. A backend that cannot read the request's id writes `null` instead (JSON-RPC 2.0, 5);
/// its error text then explains the failure.
fn answers_another(response: &Response<'_>) -> BackendError {
    #[derive(Deserialize)]
    struct ErrorObject {
        message: String,
    }
    let error = match response.outcome {
        Outcome::Error(error) if response.id.get() == "null" => serde_json::from_str(error.get()).ok(),
        _ => None,
    };
    BackendError::Invalid(match error {
        None => "it answers another request".to_owned(),
        Some(ErrorObject { message }) => {
            let shown: String = message.chars().take(MAX_SHOWN_CHARACTERS).collect();
            format!("it is an error whose id is null, for the backend could not tell the request's: {shown}")
        }
    })
}

/// Verifies that `message` is the response to the request `id`, and returns it with the id as the client wrote it.
pub(super) fn check(message: Bytes, id: &RawValue) -> Result<Bytes, BackendError> {
    if is_answer(&message, id.get()) {
        return Ok(message);
    }
    let response = match Response::parse(&message) {
        Ok(response) => response,
        Err(fault) => {
            let repaired = repaired(&message).ok_or(BackendError::Invalid(fault.message))?;
            // A repaired message needs no second repair.
            return with_id(&repaired, &parsed(&repaired)?, id);
        }
    };
    with_id(&message, &response, id)
}

fn parsed(message: &Bytes) -> Result<Response<'_>, BackendError> {
    Response::parse(message).map_err(|fault| BackendError::Invalid(fault.message))
}

/// Returns `message` with the id as the client wrote it, if `response`, its parsed form, answers the request `id`.
fn with_id(message: &Bytes, response: &Response<'_>, id: &RawValue) -> Result<Bytes, BackendError> {
    if response.id.get() == id.get() {
        return Ok(message.clone());
    }
    if !response.answers(id) {
        return Err(answers_another(response));
    }
    let spliced = splice(message, response.id.get(), id.get().as_bytes());
    spliced.ok_or_else(|| BackendError::Invalid("its id cannot be found".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_gets_the_clients_spelling_of_the_id() {
        // All other bytes stay unchanged.
        let id = RawValue::from_string(r#""a/b""#.to_owned()).unwrap();
        let theirs = Bytes::from_static(br#"{ "jsonrpc":"2.0","id":"a\/b", "result":{"n":1.00} }"#);
        let ours = check(theirs, &id).unwrap();
        assert_eq!(ours, r#"{ "jsonrpc":"2.0","id":"a/b", "result":{"n":1.00} }"#);
    }

    #[test]
    fn message_that_does_not_answer_the_request_is_refused() {
        let id = RawValue::from_string("1".to_owned()).unwrap();
        for text in [
            "",
            "nonsense",
            r#"{"jsonrpc":"2.0","id":2,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{}}{"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"a":"#,
            r#"{"id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":null}"#,
        ] {
            let error = check(Bytes::from_static(text.as_bytes()), &id).unwrap_err();
            assert!(matches!(error, BackendError::Invalid(_)), "{text}");
        }
    }

    #[test]
    fn error_with_null_id_is_shown_cut_short() {
        // The text of an error for a request whose id the backend could not read is shown, shortened.
        let id = RawValue::from_string("1".to_owned()).unwrap();
        let message = format!(
            r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":-32700,"message":"{}"}}}}"#,
            "é".repeat(300)
        );
        let error = check(Bytes::from(message), &id).unwrap_err().to_string();
        assert!(error.contains("id is null"), "{error}");
        assert_eq!(error.matches('é').count(), 200);
    }

    #[test]
    fn message_on_a_request_stream_is_classified() {
        // A message is the response, a malformed response, unreadable, or a message of the backend.
        let id = RawValue::from_string("1".to_owned()).unwrap();
        let read = |text: &'static str| read(&Bytes::from_static(text.as_bytes()), &id);
        let answer = r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#;
        assert_eq!(read(answer), MessageRole::Answer(answer.into()));
        let of_text = answer.replace("1,\"error\"", "\"1\",\"error\"");
        assert_eq!(read(of_text.leak()), MessageRole::Answer(answer.into()));
        for text in [
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":2,"result":{}}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#,
        ] {
            assert!(
                matches!(read(text), MessageRole::MalformedAnswer(BackendError::Invalid(_))),
                "{text}"
            );
        }
        for text in ["", "nonsense", "1", "[]", "{}", r#"{"id":1,"#] {
            assert!(
                matches!(read(text), MessageRole::Unreadable(BackendError::Invalid(_))),
                "{text}"
            );
        }
        for text in [
            r#"{"jsonrpc":"2.0","method":"notifications/message"}"#,
            r#"{"id":1,"method":5,"result":{}}"#,
        ] {
            assert_eq!(read(text), MessageRole::Other, "{text}");
        }
    }
}
