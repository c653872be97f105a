//! Repairs responses that only lenient clients accept.
//!
//! Hand-written servers send a byte order mark, write absent members as `null` (as JSON-RPC 1.0 does), send invalid UTF-8, or wrap the
//! response in an array. Each official SDK accepts some of these, and the intended message is unambiguous. Ambiguous messages, for example
//! with a duplicate key, are not repaired.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{EnvelopeFields, batch, envelope, is_batch, string};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Strips a byte order mark.
pub(crate) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// The valid form of the response `bytes`; `None` if it is ambiguous.
#[must_use]
pub(crate) fn repaired(bytes: &[u8]) -> Option<Bytes> {
    let text = String::from_utf8_lossy(without_mark(bytes));
    let message = if is_batch(text.as_bytes()) {
        only_response(text.as_bytes())?
    } else {
        &text
    };
    let envelope = envelope(message.as_bytes()).ok()?;
    let given = |member: Option<&'_ RawValue>| member.is_some_and(|value| value.get() != "null");
    if envelope.jsonrpc.and_then(string).as_deref() != Some("2.0") || given(envelope.method) {
        return None;
    }
    let (key, outcome) = match (given(envelope.result), given(envelope.error)) {
        (true, false) => ("result", envelope.result?),
        (false, true) => ("error", envelope.error?),
        _ => return None,
    };
    let id = envelope.id?;
    Some(Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","id":{id},"{key}":{outcome}}}"#
    )))
}

/// The response in a batch with exactly one response; it may contain notifications, too.
fn only_response(bytes: &[u8]) -> Option<&str> {
    let messages = batch(bytes).ok()?;
    let is_response = |message: &&&RawValue| {
        let fields = EnvelopeFields::of(message.get().as_bytes());
        fields.is_some_and(|fields| fields.has_outcome && !fields.has_method)
    };
    let mut responses = messages.iter().filter(is_response);
    let response = responses.next()?;
    responses.next().is_none().then(|| response.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::step_counter::assert_linear;

    #[test]
    fn unambiguous_response_is_repaired() {
        let good = r#"{"jsonrpc":"2.0","id":1,"result":{"a":"é"}}"#;
        for text in [
            good.to_owned(),
            format!("\u{feff}{good}"),
            format!("[{good}]"),
            format!(r#" [{{"jsonrpc":"2.0","method":"notifications/x"}},{good}]"#),
            r#"{"jsonrpc":"2.0","id":1,"error":null,"method":null,"params":null,"result":{"a":"é"},"x":1}"#
                .to_owned(),
        ] {
            assert_eq!(
                repaired(text.as_bytes()).as_deref(),
                Some(good.as_bytes()),
                "{text}"
            );
        }
        let latin = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"a\":\"\xe9\"}}";
        assert_eq!(repaired(latin).unwrap(), good.replace('é', "\u{fffd}"));
        let error = r#"{"jsonrpc":"2.0","result":null,"error":{"code":1,"message":""},"id":"a"}"#;
        let expected = r#"{"jsonrpc":"2.0","id":"a","error":{"code":1,"message":""}}"#;
        assert_eq!(repaired(error.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn ambiguous_response_is_not_repaired() {
        let good = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        for text in [
            "",
            "null",
            "[]",
            &format!("[{good},{good}]"),
            &format!("{good}{good}"),
            r#"{"id":1,"result":{}}"#,
            r#"{"jsonrpc":"1.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"Result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":null,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"x","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":null}"#,
        ] {
            assert_eq!(repaired(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn repair_is_linear() {
        let batch = |size: usize| {
            let others = vec![r#"{"jsonrpc":"2.0","method":"x"}"#; size].join(",");
            format!(r#"[{others},{{"jsonrpc":"2.0","id":1,"result":{{}}}}]"#)
        };
        assert_linear(8, batch, |batch| {
            drop(repaired(batch.as_bytes()));
        });
    }
}
