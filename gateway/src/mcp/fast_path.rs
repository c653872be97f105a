//! Fast path: recognizes the usual form of a backend's response with one scan, without parsing it.
//!
//! Without `is_answer`, a call with a result of 32 KiB takes 1.5 times the processor time (`large_8_cpu` of `cargo xtask bench large`).

#![allow(
    clippy::arithmetic_side_effects,
    reason = "a place in a slice is at most isize::MAX, and no step is longer than what was found there"
)]

use fearless_simd::{Level, Simd, dispatch};

use super::inspected_keys::can_be_taken_for;
use super::jsonrpc::ENVELOPE_KEYS;
use crate::mcp::scan::{string, value, white_space};

/// Whether `message` is a result for the request with the id `id`, in the form that nearly every server sends: version and id literally as
/// expected, an object as the result, no duplicate and no escaped keys.
///
/// `false` proves nothing, and in particular no error: the full parser may still accept the message.
#[must_use]
pub(crate) fn is_answer(message: &[u8], id: &str) -> bool {
    let id = id.as_bytes();
    let mut is_ascii = true;
    let envelope = dispatch!(Level::new(), simd => envelope(simd, message, id, &mut is_ascii));
    envelope.is_some() && (is_ascii || simdutf8::basic::from_utf8(message).is_ok())
}

#[inline(always)]
fn envelope<S: Simd>(simd: S, message: &[u8], id: &[u8], is_ascii: &mut bool) -> Option<()> {
    let mut at = white_space(message, 0);
    let (mut version, mut answers, mut outcome) = (false, false, false);
    let mut before = b'{';
    loop {
        let byte = *message.get(at)?;
        if byte != before {
            let ended = byte == b'}' && before == b',' && white_space(message, at + 1) == message.len();
            return (ended && version && answers && outcome).then_some(());
        }
        before = b',';
        at = white_space(message, at + 1);
        let start = at + 1;
        if *message.get(at)? != b'"' {
            return None;
        }
        at = string(simd, message, start, is_ascii)?;
        let key = message.get(start..at - 1)?;
        at = white_space(message, at);
        if *message.get(at)? != b':' {
            return None;
        }
        let start = white_space(message, at + 1);
        at = value(simd, message, start, is_ascii)?;
        let written = message.get(start..at)?;
        let seen = match key {
            b"jsonrpc" if written == br#""2.0""# => &mut version,
            b"id" if written == id => &mut answers,
            b"result" if written.first() == Some(&b'{') => &mut outcome,
            b"jsonrpc" | b"id" | b"result" | b"error" | b"method" | b"params" => return None,
            other if other.contains(&b'\\') || is_ambiguous(other) => return None,
            _ => {
                at = white_space(message, at);
                continue;
            }
        };
        if std::mem::replace(seen, true) {
            return None;
        }
        at = white_space(message, at);
    }
}

/// Whether some parser reads `key` as a key of the envelope.
#[cold]
fn is_ambiguous(key: &[u8]) -> bool {
    std::str::from_utf8(key).map_or(true, |key| {
        ENVELOPE_KEYS
            .iter()
            .any(|inspected| can_be_taken_for(key, inspected))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;
    use crate::mcp::jsonrpc::Response;
    use crate::runtime::step_counter::assert_linear;

    #[test]
    fn usual_responses_are_recognized() {
        for message in [
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"result":{"a":[1,{"b":"\""}]},"id":1,"jsonrpc":"2.0"}"#,
            " {\n \"jsonrpc\" : \"2.0\" , \"id\" : 1 , \"result\" : {\"text\":\"é\"} , \"extra\" : null } \n",
        ] {
            assert!(is_answer(message.as_bytes(), "1"), "{message}");
        }
    }

    #[test]
    fn unusual_messages_are_not_recognized() {
        for message in [
            "",
            "{}",
            "[]",
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":2,"result":{}}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
            r#"{"id":1,"result":{}}"#,
            r#"{"jsonrpc":"1.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":2.0,"id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":null}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":"{}"}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":[{}]}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":"boom"}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"x"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"r\u0065sult":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"Result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"ID":2}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"paramſ":2}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{}}{"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{}} x"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"a":"#,
            r#"{,"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},}"#,
            r#"["jsonrpc":"2.0","id":1,"result":{}}"#,
        ] {
            assert!(!is_answer(message.as_bytes(), "1"), "{message}");
        }
        assert!(!is_answer(
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"a\":\"\xff\"}}",
            "1"
        ));
    }

    #[test]
    fn fast_path_is_linear_for_any_content() {
        for unit in ["[],", "{},", r#"{"a":[1]},"#, "[[[[1]]]],", r#""\\\"","#] {
            let answer = |many: usize| {
                format!(
                    r#"{{"jsonrpc":"2.0","id":1,"result":{{"a":[{}0]}}}}"#,
                    unit.repeat(many)
                )
            };
            assert_linear(500, answer, |text| {
                assert!(is_answer(text.as_bytes(), "1"), "{unit}");
            });
        }
        let keys = |many: usize| {
            format!(
                r#"{{{}"jsonrpc":"2.0","id":1,"result":{{}}}}"#,
                r#""x":1,"#.repeat(many)
            )
        };
        assert_linear(500, keys, |text| assert!(is_answer(text.as_bytes(), "1")));
    }

    proptest! {
        /// Every message that the fast path recognizes is the same response to the full parser.
        #[test]
        fn fast_path_agrees_with_the_parser(
            fields in proptest::collection::vec(
                prop_oneof![
                    // Most generated messages must be valid responses except for one detail.
                    3 => proptest::sample::select(vec![("jsonrpc", "\"2.0\""), ("id", "1"), ("result", "{}")]),
                    1 => (
                        proptest::sample::select(vec!["jsonrpc", "id", "result", "error", "method", "params", "Result", "x", "\\u0069d"]),
                        proptest::sample::select(vec!["1", "2", "\"2.0\"", "\"1.0\"", "{}", "{\"a\":[1,\"b\"]}", "[]", "null", "[", "\"\\x\""]),
                    ),
                ],
                0..5,
            ),
            space in " {0,2}",
        ) {
            let fields: Vec<_> = fields.iter().map(|(key, value)| format!("{space}\"{key}\"{space}:{value}{space}")).collect();
            let message = format!("{{{}}}{space}", fields.join(","));
            if is_answer(message.as_bytes(), "1") {
                let id = RawValue::from_string("1".to_owned()).unwrap();
                prop_assert!(Response::parse(message.as_bytes()).is_ok_and(|response| response.answers(&id)), "{message}");
            }
        }
    }
}
