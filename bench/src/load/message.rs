//! What clients ask, as bytes.

use bytes::Bytes;

use crate::backend::{ECHO, LARGE, LARGE_BYTES, STREAM};

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A tool that answers with its argument.
    Echo,
    /// The same with 32 KiB behind it.
    Large,
    /// The same as [`Call::Echo`], answered in a stream of one event. Its latency is that of the stream's first byte.
    Stream,
    /// A session more.
    Initialize,
    /// The first page of the tools.
    List,
}

impl Call {
    /// The request with the id `id`, for a target whose tools have `prefix` in front of their names.
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

    /// Whether `answer` is the whole answer to [`Self::request`].
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

/// The notification with which a client ends its handshake.
pub(super) fn initialized() -> Bytes {
    Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)
}

/// A text that no other call of the client has, so that no cache can know its answer.
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
