//! Compares the scanner of JSON-RPC envelopes with a slow parser that reads the whole message into a tree.

use std::collections::BTreeMap;
use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use vmcp_gateway::mcp::jsonrpc::{Message, Outcome, Response};

const REGRESSIONS: &str = "tests/fuzz/regressions/envelope.txt";

/// The parts of a message.
#[derive(Debug, PartialEq)]
struct Parts {
    id: Option<Value>,
    method: Option<String>,
    params: Option<Value>,
    result: Option<Value>,
    error: Option<Value>,
}

/// All fields of an object in their order, with duplicates.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// The result of the slow parser.
enum ReferenceResult {
    Message(Parts),
    /// A message with a number or a text that the slow parser cannot represent.
    NotRepresentable,
    Rejected,
}

fn parse_slowly(bytes: &[u8]) -> ReferenceResult {
    match fields(bytes) {
        None => ReferenceResult::Rejected,
        Some(fields) => tree(&fields).map_or(ReferenceResult::NotRepresentable, ReferenceResult::Message),
    }
}

/// The fields of a message by name. `None` if `bytes` are not a message.
fn fields(bytes: &[u8]) -> Option<BTreeMap<String, Box<RawValue>>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let Fields(fields) = serde_json::from_str(text).ok()?;
    let mut known = BTreeMap::new();
    for (key, value) in fields {
        let names = ["jsonrpc", "id", "method", "params", "result", "error"];
        if names.iter().any(|name| resembles(&key, name)) {
            return None;
        }
        let is_known = names.contains(&key.as_str());
        if is_known && known.insert(key, value).is_some() {
            return None;
        }
    }
    let version: Option<String> = serde_json::from_str(known.get("jsonrpc")?.get()).ok();
    if version.as_deref() != Some("2.0") {
        return None;
    }
    let (id, method) = (known.get("id"), known.get("method"));
    let outcomes = usize::from(known.contains_key("result")) + usize::from(known.contains_key("error"));
    if let Some(method) = method {
        let params = known
            .get("params")
            .is_none_or(|params| params.get().starts_with('{') || params.get() == "null");
        if !method.get().starts_with('"') || outcomes > 0 || !params || !id.is_none_or(|id| may_be_id(id)) {
            return None;
        }
    } else if outcomes != 1 || (id.is_none() && !known.contains_key("error")) {
        return None;
    }
    Some(known)
}

/// Whether a parser may read `key` as `name`, although they differ.
fn resembles(key: &str, name: &str) -> bool {
    let plain = key.split('\0').next().unwrap_or_default().to_lowercase();
    let plain = plain.replace(['_', '-'], "").replace('ſ', "s").replace('ı', "i");
    key != name && plain == name
}

fn tree(fields: &BTreeMap<String, Box<RawValue>>) -> serde_json::Result<Parts> {
    let value = |key: &str| match fields.get(key) {
        None => Ok(None),
        Some(raw) => serde_json::from_str::<Value>(raw.get()).map(Some),
    };
    let method = value("method")?.and_then(|method| method.as_str().map(str::to_owned));
    // An error response without an id has the id null.
    let is_error = method.is_none() && fields.contains_key("error");
    Ok(Parts {
        id: value("id")?.or(is_error.then_some(Value::Null)),
        params: if method.is_some() {
            value("params")?.filter(|params| !params.is_null())
        } else {
            None
        },
        method,
        result: value("result")?,
        error: value("error")?,
    })
}

fn may_be_id(id: &RawValue) -> bool {
    let text = id.get();
    let is_integer = text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && !text.contains(['.', 'e', 'E']);
    let is_text = serde_json::from_str::<String>(text).is_ok();
    let is_whole = text.parse().is_ok_and(|number: f64| number.fract() == 0.0);
    text.len() <= 1024 && (is_text || is_integer || is_whole)
}

/// The parts that the scanner has found.
fn scanned(message: &Message<'_>) -> serde_json::Result<Parts> {
    let tree = |raw: &RawValue| serde_json::from_str::<Value>(raw.get());
    let params = |raw: Option<&RawValue>| raw.map(tree).transpose();
    let mut parts = Parts {
        id: None,
        method: None,
        params: None,
        result: None,
        error: None,
    };
    match message {
        Message::Request(request) => {
            parts.id = Some(tree(request.id)?);
            parts.method = Some(request.method.to_string());
            parts.params = params(request.params)?;
        }
        Message::Notification { method, params: raw } => {
            parts.method = Some(method.to_string());
            parts.params = params(*raw)?;
        }
        Message::Response(response) => {
            parts.id = Some(tree(response.id)?);
            match response.outcome {
                Outcome::Result(result) => parts.result = Some(tree(result)?),
                Outcome::Error(error) => parts.error = Some(tree(error)?),
            }
        }
    }
    Ok(parts)
}

/// A key, with one of its letters escaped in some cases.
fn key() -> impl Strategy<Value = String> {
    let names = select(vec![
        "jsonrpc", "jsonrpc", "id", "id", "method", "method", "params", "result", "error", "extra", "ids",
        "", "Id", "METHOD", "par_ams", "reſult",
    ]);
    (names, proptest::option::weighted(0.2, any::<Index>())).prop_map(|(name, escaped)| {
        let mut text = String::from("\"");
        let escaped = escaped
            .filter(|_| !name.is_empty())
            .map(|index| index.index(name.len()));
        for (at, letter) in name.chars().enumerate() {
            match escaped {
                Some(index) if index == at => text.push_str(&format!("\\u{:04X}", u32::from(letter))),
                _ => text.push(letter),
            }
        }
        text.push('"');
        text
    })
}

/// A valid or invalid value of a message's field.
fn value() -> impl Strategy<Value = String> {
    let usual = select(vec![
        r#""2.0""#,
        r#""2.0""#,
        r#""2.0""#,
        r#""2\u002e0""#,
        "1",
        "-0",
        "7.0",
        "1e3",
        "null",
        "true",
        r#""a""#,
        r#""tools/call""#,
        r#""tools\/list""#,
        "{}",
        r#"{"name":"x","na\u006de":"y"}"#,
        "[]",
        "[1,{}]",
        "123456789012345678901234567890",
        "1e999",
        r#""\ud800""#,
        r#""\ud83d\ude00""#,
        "\"\u{1F600}\"",
    ]);
    let any_text = ".{0,300}".prop_map(|text| Value::String(text).to_string());
    prop_oneof![6 => usual.prop_map(str::to_owned), 1 => any_text, 1 => any::<i64>().prop_map(|n| n.to_string())]
}

fn space() -> impl Strategy<Value = &'static str> {
    select(vec!["", "", "", " ", "\n\t", "\r\n"])
}

/// An object with any number of message fields in any order.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let field = (space(), key(), space(), value(), space())
        .prop_map(|(before, key, between, value, after)| format!("{before}{key}{between}:{value}{after}"));
    let plausible = select(vec![
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"x","arguments":{"n":1.00}}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"x":[1,"é"]}}"#,
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}"#,
    ]);
    prop_oneof![
        3 => vec(field, 0..8).prop_map(|fields| format!("{{{}}}", fields.join(",")).into_bytes()),
        1 => plausible.prop_map(|text| text.as_bytes().to_vec()),
    ]
}

/// A message with a few bytes changed, removed or duplicated.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let damage = (any::<Index>(), 0..12_usize, 0..4_u8, any::<u8>());
    (message(), vec(damage, 1..4)).prop_map(|(mut bytes, damages)| {
        for (index, length, kind, byte) in damages {
            if bytes.is_empty() {
                bytes.push(byte);
            }
            let start = index.index(bytes.len());
            let end = (start + length).min(bytes.len());
            match kind {
                0 => bytes[start] = byte,
                1 => drop(bytes.drain(start..end)),
                2 => bytes.insert(start, byte),
                _ => {
                    let copy = bytes[start..end].to_vec();
                    bytes.splice(start..start, copy);
                }
            }
        }
        bytes
    })
}

/// Whether a backend's message is a response that the strictest client accepts.
fn is_response(bytes: &[u8]) -> bool {
    fn all(bytes: &[u8]) -> Option<Vec<(String, Box<RawValue>)>> {
        let text = std::str::from_utf8(bytes).ok()?;
        let Fields(fields) = serde_json::from_str(text).ok()?;
        Some(fields)
    }
    let one = |fields: &[(String, Box<RawValue>)], name: &str| {
        if fields.iter().any(|(key, _)| resembles(key, name)) {
            return Err(());
        }
        let mut named = fields.iter().filter(|(key, _)| key == name);
        let value = named.next().map(|(_, value)| value.get().to_owned());
        named.next().map_or(Ok(value), |_| Err(()))
    };
    let checked = || {
        let fields = all(bytes).ok_or(())?;
        let part = |name| one(&fields, name);
        let version = part("jsonrpc")?.is_some_and(|version| {
            serde_json::from_str::<String>(&version).is_ok_and(|version| version == "2.0")
        });
        let envelope = version && part("id")?.is_some() && part("method")?.is_none();
        part("params")?;
        let outcome = match (part("result")?, part("error")?) {
            (Some(result), None) => result.starts_with('{'),
            (None, Some(error)) => {
                let fields = all(error.as_bytes()).ok_or(())?;
                let code = one(&fields, "code")?
                    .is_some_and(|code| !code.contains(|at: char| at != '-' && !at.is_ascii_digit()));
                code && one(&fields, "message")?.is_some_and(|message| message.starts_with('"'))
            }
            _ => false,
        };
        Ok::<_, ()>(envelope && outcome)
    };
    checked().unwrap_or(false)
}

/// A response of a backend with a few mistakes.
fn answer() -> impl Strategy<Value = Vec<u8>> {
    let right = |name: &'static str, text: &'static str| (Just(format!("\"{name}\"")), Just(text.to_owned()));
    let errors = select(vec![
        r#"{"code":-32600,"message":"no","data":[1]}"#,
        r#"{"c\u006fde":0,"message":"\ud800"}"#,
        r#"{"code":1.0,"message":"no"}"#,
        r#"{"code":"1","message":"no"}"#,
        r#"{"code":1,"code":1,"message":"no"}"#,
        r#"{"code":1}"#,
        r#"[1,"no"]"#,
    ]);
    let field = prop_oneof![
        2 => right("jsonrpc", r#""2.0""#),
        2 => right("id", "1"),
        1 => right("result", "{}"),
        1 => (Just(r#""error""#.to_owned()), errors.prop_map(str::to_owned)),
        1 => (key(), value()),
    ];
    vec(field, 2..5).prop_map(|fields| {
        let fields: Vec<_> = fields
            .iter()
            .map(|(key, value)| format!("{key}:{value}"))
            .collect();
        format!("{{{}}}", fields.join(",")).into_bytes()
    })
}

fn agree(bytes: &[u8]) -> Result<(), TestCaseError> {
    let text = String::from_utf8_lossy(bytes);
    match (Message::parse(bytes), parse_slowly(bytes)) {
        (Ok(message), ReferenceResult::Message(expected)) => {
            let parts = scanned(&message);
            prop_assert!(parts.is_ok(), "{text}: {parts:?}");
            prop_assert_eq!(parts.ok(), Some(expected), "{}", text);
        }
        // The gateway passes on numbers out of range and unpaired surrogates if it does not read them.
        (_, ReferenceResult::NotRepresentable) | (Err(_), ReferenceResult::Rejected) => {}
        (Ok(message), ReferenceResult::Rejected) => prop_assert!(false, "{text} is accepted as {message:?}"),
        (Err(fault), ReferenceResult::Message(_)) => prop_assert!(false, "{text} is rejected: {fault}"),
    }
    Ok(())
}

proptest! {
    #![proptest_config(super::config(REGRESSIONS))]

    #[test]
    fn scanner_agrees_with_the_slow_parser(bytes in message()) {
        agree(&bytes)?;
    }

    #[test]
    fn scanner_agrees_with_the_slow_parser_on_damaged_bytes(bytes in damaged()) {
        agree(&bytes)?;
    }

    /// A backend's response is accepted exactly if the strictest client accepts it.
    #[test]
    fn accepted_response_suits_the_strictest_client(bytes in prop_oneof![4 => answer(), 1 => damaged()]) {
        let text = String::from_utf8_lossy(&bytes);
        prop_assert_eq!(Response::parse(&bytes).is_ok(), is_response(&bytes), "{}", text);
        let from_backend = matches!(Message::from_backend(&bytes), Ok(Message::Response(_)));
        prop_assert_eq!(from_backend, is_response(&bytes), "{}", text);
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..200)) {
        agree(&bytes)?;
        drop(Message::from_backend(&bytes));
    }

    /// Nesting is limited, and brackets in strings do not count.
    #[test]
    fn nesting_limit_ignores_brackets_in_strings(
        objects in vec(any::<bool>(), 100..150),
        text in r#"[\[\]{}"\\a-c]{0,20}"#,
    ) {
        let text = Value::String(text).to_string();
        let mut value = text.clone();
        for object in &objects {
            value = if *object { format!("{{{text}:{value}}}") } else { format!("[{text},{value}]") };
        }
        let message = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"deep":{value}}}}}"#);
        // The message and its params add two levels.
        let accepted = Message::parse(message.as_bytes()).is_ok();
        prop_assert_eq!(accepted, objects.len() + 2 <= 128, "{} levels", objects.len() + 2);
    }
}
