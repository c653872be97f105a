//! The answer to a request, in the framing that the backend chose.

use bytes::{Bytes, BytesMut};
use serde_json::value::RawValue;

use super::events::Events;
use super::{BackendError, UpstreamBody, UpstreamSession};
use crate::wire::glance::is_answer;
use crate::wire::jsonrpc::Response;
use crate::wire::splice::splice;

/// A JSON answer up to this size is read whole and its envelope checked; a larger one is passed on as it comes.
const CHECKED_BYTES: usize = 256 * 1024;

/// The answer to a request.
#[derive(Debug)]
pub enum Answer {
    /// One JSON message, known to be the answer to the request.
    Whole(Bytes),
    /// One JSON message too large to be checked: its first bytes, and the rest as it comes.
    Streaming(Bytes, UpstreamBody),
    /// A stream of messages, in which the answer comes at some time, and the session in which the backend sends it.
    Events(UpstreamSession, Box<Events>),
}

impl Answer {
    /// The one message that answers the request `id`, for whoever has to read it.
    ///
    /// # Errors
    /// When it does not come, or is no answer to that request.
    pub async fn whole(self, id: &RawValue) -> Result<Bytes, BackendError> {
        match self {
            Self::Whole(message) => Ok(message),
            Self::Streaming(first, body) => check(collect(first, body).await?, id),
            Self::Events(_, mut events) => {
                while let Some(event) = events.next().await? {
                    let Some(data) = event.data else { continue };
                    if let Ok(message) = check(data, id) {
                        return Ok(message);
                    }
                }
                Err(BackendError::Broken(
                    "the stream ended without the answer".to_owned(),
                ))
            }
        }
    }
}

/// Reads a JSON answer's body.
pub(super) async fn json(mut body: UpstreamBody, id: &RawValue) -> Result<Answer, BackendError> {
    body.check_size()?;
    let expected = usize::try_from(body.expected()).unwrap_or(usize::MAX);
    if expected > CHECKED_BYTES {
        return Ok(Answer::Streaming(Bytes::new(), body));
    }
    let Some(first) = body.chunk().await? else {
        return Err(BackendError::Broken("the answer is empty".to_owned()));
    };
    if body.is_at_end() {
        return check(first, id).map(Answer::Whole);
    }
    let mut read = BytesMut::with_capacity(expected.max(first.len() * 2));
    read.extend_from_slice(&first);
    while let Some(chunk) = body.chunk().await? {
        read.extend_from_slice(&chunk);
        if read.len() > CHECKED_BYTES {
            return Ok(Answer::Streaming(read.freeze(), body));
        }
    }
    check(read.freeze(), id).map(Answer::Whole)
}

/// The largest answer to a request of the gateway's own.
const OWN_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// Reads the rest of the answer to a request of the gateway's own, which needs it whole.
pub(super) async fn collect(first: Bytes, mut body: UpstreamBody) -> Result<Bytes, BackendError> {
    let mut read = BytesMut::from(&first[..]);
    while let Some(chunk) = body.chunk().await? {
        read.extend_from_slice(&chunk);
        if read.len() > OWN_ANSWER_BYTES {
            return Err(BackendError::Invalid(format!(
                "it is larger than {OWN_ANSWER_BYTES} bytes"
            )));
        }
    }
    Ok(read.freeze())
}

/// The bytes of an answer that is known to be the one to the request `id`, with the id as the client wrote it.
pub fn check(message: Bytes, id: &RawValue) -> Result<Bytes, BackendError> {
    if is_answer(&message, id.get()) {
        return Ok(message);
    }
    let response = Response::parse(&message).map_err(|fault| BackendError::Invalid(fault.message))?;
    if response.id.get() == id.get() {
        return Ok(message);
    }
    if !response.answers(id) {
        return Err(BackendError::Invalid("it answers another request".to_owned()));
    }
    let spliced = splice(&message, response.id.get(), id.get().as_bytes());
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
        ] {
            let error = check(Bytes::from_static(text.as_bytes()), &id).unwrap_err();
            assert!(matches!(error, BackendError::Invalid(_)), "{text}");
        }
    }
}
