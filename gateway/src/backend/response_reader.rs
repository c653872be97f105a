//! The answer to a request, in the framing that the backend chose.

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

/// A JSON answer up to this size is read whole and its envelope checked; a larger one is passed on as it comes.
const CHECKED_BYTES: usize = 256 * 1024;

/// The answer to a request.
#[derive(Debug)]
pub enum BackendResponse {
    /// One JSON message, known to be the answer to the request.
    Whole(Bytes),
    /// One JSON message too large to be checked: its first bytes, and the rest as it comes.
    Streaming(Bytes, Box<UpstreamBody>),
    /// A stream of messages, in which the answer comes at some time, and the session in which the backend sends it.
    Events(Box<UpstreamSession>, Box<ResponseEvents>),
}

impl BackendResponse {
    /// The one message that answers the request `id`, for whoever has to read it.
    ///
    /// # Errors
    /// When it does not come, or is no answer to that request.
    pub async fn whole(self, id: &RawValue) -> Result<Bytes, BackendError> {
        match self {
            Self::Whole(message) => Ok(message),
            Self::Streaming(first, body) => check(collect(first, *body).await?, id),
            Self::Events(_, events) => find(*events, id).await,
        }
    }
}

/// Reads a JSON answer's body.
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

/// Room for so many bytes of an answer.
async fn reserve(account: &Account, bytes: usize) -> Result<Reservation, BackendError> {
    let reserved = account.reserve_or_wait(bytes).await;
    reserved.ok_or_else(|| BackendError::NoRoom(account.limit()))
}

/// Room for so many bytes more.
pub(super) async fn grow(reserved: &mut Reservation, bytes: usize) -> Result<(), BackendError> {
    if reserved.grow_or_wait(bytes).await {
        return Ok(());
    }
    Err(BackendError::NoRoom(reserved.account().limit()))
}

/// The largest answer to a request of the gateway's own.
const OWN_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// Reads the rest of the answer to a request of the gateway's own, which needs it whole.
pub(super) async fn collect(first: Bytes, mut body: UpstreamBody) -> Result<Bytes, BackendError> {
    let mut reserved = reserve(body.account(), first.len()).await?;
    let mut read = BytesMut::from(&first[..]);
    while let Some(chunk) = body.chunk().await? {
        grow(&mut reserved, chunk.len()).await?;
        read.extend_from_slice(&chunk);
        if read.len() > OWN_ANSWER_BYTES {
            return Err(BackendError::Invalid(format!(
                "it is larger than {OWN_ANSWER_BYTES} bytes"
            )));
        }
    }
    Ok(reserved.hold(read.freeze()))
}

/// What a message is to the request on whose stream it came.
#[derive(Debug, PartialEq, Eq)]
pub enum MessageRole {
    /// Its answer, with the id as the client wrote it.
    Answer(Bytes),
    /// What must have been meant as its answer, and is none. No other will come.
    NoAnswer(BackendError),
    /// Nobody can tell what it is.
    Unreadable(BackendError),
    /// A request or a notification.
    Other,
}

/// Reads a message that came on the stream of the request `id`, which is for its answer and whatever the backend asks and notifies
/// until then.
#[must_use]
pub fn read(message: &Bytes, id: &RawValue) -> MessageRole {
    match check(message.clone(), id) {
        Ok(answer) => MessageRole::Answer(answer),
        Err(error) => match EnvelopeFields::of(message) {
            Some(sketch) if sketch.has_method => MessageRole::Other,
            // What says nothing at all is not meant as the answer, which may still come.
            Some(sketch) if sketch.id.is_none() && !sketch.has_outcome => MessageRole::Unreadable(error),
            Some(_) => MessageRole::NoAnswer(error),
            None => MessageRole::Unreadable(error),
        },
    }
}

/// Waits for the answer to the request `id` on its stream.
pub(super) async fn find(mut events: ResponseEvents, id: &RawValue) -> Result<Bytes, BackendError> {
    let mut unreadable = None;
    while let Some(event) = events.next().await? {
        let Some(data) = event.message() else { continue };
        match read(data, id) {
            MessageRole::Answer(answer) => return Ok(answer),
            MessageRole::NoAnswer(error) => return Err(error),
            MessageRole::Unreadable(error) => unreadable = Some(error),
            MessageRole::Other => {}
        }
    }
    Err(unreadable.unwrap_or_else(|| BackendError::Broken("the stream ended without the answer".to_owned())))
}

/// How much of what a backend says about an error is shown, in characters.
const SHOWN_CHARACTERS: usize = 200;

/// Why a response with another id is not the answer. A backend that could not read the request's id writes `null` in its place (JSON-RPC
/// 2.0, 5), and what it says is all that there is to know.
fn answers_another(response: &Response<'_>) -> BackendError {
    #[derive(Deserialize)]
    struct Said {
        message: String,
    }
    let said = match response.outcome {
        Outcome::Error(error) if response.id.get() == "null" => serde_json::from_str(error.get()).ok(),
        _ => None,
    };
    BackendError::Invalid(match said {
        None => "it answers another request".to_owned(),
        Some(Said { message }) => {
            let shown: String = message.chars().take(SHOWN_CHARACTERS).collect();
            format!("it is an error whose id is null, for the backend could not tell the request's: {shown}")
        }
    })
}

/// The bytes of an answer that is known to be the one to the request `id`, with the id as the client wrote it.
pub(super) fn check(message: Bytes, id: &RawValue) -> Result<Bytes, BackendError> {
    if is_answer(&message, id.get()) {
        return Ok(message);
    }
    let response = match Response::parse(&message) {
        Ok(response) => response,
        Err(fault) => {
            let repaired = repaired(&message).ok_or(BackendError::Invalid(fault.message))?;
            // What is repaired has nothing left to repair.
            return with_id(&repaired, &parsed(&repaired)?, id);
        }
    };
    with_id(&message, &response, id)
}

fn parsed(message: &Bytes) -> Result<Response<'_>, BackendError> {
    Response::parse(message).map_err(|fault| BackendError::Invalid(fault.message))
}

/// The bytes of `message`, which is `response`, if it is the answer to the request `id`, with the id as the client wrote it.
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
    fn an_answer_keeps_its_bytes_and_gets_the_clients_spelling_of_the_id() {
        let id = RawValue::from_string(r#""a/b""#.to_owned()).unwrap();
        let theirs = Bytes::from_static(br#"{ "jsonrpc":"2.0","id":"a\/b", "result":{"n":1.00} }"#);
        let ours = check(theirs, &id).unwrap();
        assert_eq!(ours, r#"{ "jsonrpc":"2.0","id":"a/b", "result":{"n":1.00} }"#);
    }

    #[test]
    fn what_is_no_answer_to_the_request_is_refused() {
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
    fn what_the_backend_says_of_a_request_whose_id_it_could_not_tell_is_shown_and_cut_short() {
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
    fn what_comes_on_the_stream_of_a_request_is_its_answer_or_none_or_something_else() {
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
                matches!(read(text), MessageRole::NoAnswer(BackendError::Invalid(_))),
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
