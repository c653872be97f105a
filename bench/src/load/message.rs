//! The requests of clients, encoded as bytes.

use bytes::Bytes;

use crate::backend::{ECHO, LARGE, LARGE_BYTES, STREAM};

/// A request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A call of the tool that returns its argument.
    Echo,
    /// A call of the tool that returns its argument and 32 KiB of text.
    Large,
    /// As [`Call::Echo`], with a stream of one event as response. The latency is that of the first byte of the stream.
    Stream,
    /// The creation of a session.
    Initialize,
    /// The first page of the list of tools.
    List,
}

impl Call {
    /// The request with the id `id`, for a target with the tool prefix `prefix`.
    pub(super) fn request(self, id: u64, prefix: &str) -> Bytes {
        let tool = match self {
            Self::Echo => ECHO,
            Self::Large => LARGE,
            Self::Stream => STREAM,
            Self::Initialize => return initialize(id),
            Self::List => return format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#).into(),
        };
        let text = text(id);
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{prefix}{tool}","arguments":{{"message":"{text}"}}}}}}"#
        )
        .into()
    }

    /// Whether `answer` is a complete and correct response to [`Self::request`].
    pub(super) fn is_answered_by(self, answer: &[u8], id: u64) -> bool {
        let least = if self == Self::Large { LARGE_BYTES } else { 0 };
        let head = &answer[..answer.len().min(512)];
        let contains = |text: &str| memchr::memmem::find(head, text.as_bytes()).is_some();
        answer.len() > least
            && contains(&format!(r#""id":{id},"result":"#))
            && match self {
                Self::Echo | Self::Large | Self::Stream => contains(&text(id)),
                Self::Initialize => contains("protocolVersion"),
                Self::List => contains(r#""tools":[{"#),
            }
    }
}

/// The notification that completes the handshake of a client.
pub(super) fn initialized() -> Bytes {
    Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)
}

/// A text that is unique among the calls of the client, so that no cache can have the response.
fn text(id: u64) -> String {
    format!("the text of call {id}")
}

fn initialize(id: u64) -> Bytes {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{{"roots":{{"listChanged":true}},"sampling":{{}},"elicitation":{{}}}},"clientInfo":{{"name":"vmcp-bench","title":"The bench of vmcp","version":"1.0.0"}}}}}}"#
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_another_call_or_cut_short_is_none() {
        let answer =
            br#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"the text of call 7"}]}}"#;
        assert!(Call::Echo.is_answered_by(answer, 7));
        assert!(!Call::Echo.is_answered_by(answer, 8));
        assert!(!Call::Large.is_answered_by(answer, 7));
        let error = br#"{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"the text of call 7"}}"#;
        assert!(!Call::Echo.is_answered_by(error, 7));
    }
}
