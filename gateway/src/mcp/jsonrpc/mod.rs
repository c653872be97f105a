//! JSON-RPC 2.0 messages, borrowed from the received bytes.
//!
//! Only the envelope is parsed: `jsonrpc`, `id`, `method`, and the extent of each other field. Params and results stay the sender's bytes,
//! so that unknown fields and number formats survive. A message that two parsers could read as two different ones is rejected
//! (`inspected_keys`).

pub(crate) mod repair;
mod write;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::inspected_keys;
use crate::mcp::error_code;
use crate::runtime::step_counter;

pub use write::{error, error_with_data, notification, notification_with, request, result, result_head};

/// Maximum bytes of a request id. Clients use small integers or UUIDs.
const MAX_ID_BYTES: usize = 1024;
/// Maximum bytes of an id that is sent upstream unchanged, where it becomes part of event ids.
const MAX_FORWARDED_ID_BYTES: usize = 256;

/// Maximum bytes of the id of a backend's request. The backend may be another gateway, whose ids contain those of its backends.
const MAX_BACKEND_ID_BYTES: usize = 1024;

/// Prefix of the ids and progress tokens that stand for a backend's own. Clients must not use such ids, so that a cancellation is
/// unambiguous. A gateway in front of this one does not use them either: it forwards its clients' ids, or numbers its own requests.
pub const RESERVED_ID_PREFIX: &str = "vmcp:";

/// Integers of at most this many digits are exact in every parser; larger ones may be rounded to a double.
const EXACT_DIGITS: usize = 15;

/// Maximum nesting of a request's JSON: deeper than any real schema, and within the limits of every backend's parser.
const MAX_DEPTH: usize = 128;

/// Maximum number of messages in a batch.
const MAX_BATCH: usize = 100;

/// A received message, borrowed from its bytes.
///
/// ```
/// use vmcp_gateway::mcp::jsonrpc::Message;
///
/// let bytes = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"now"}}"#;
/// let Ok(Message::Request(request)) = Message::parse(bytes) else { panic!("not a request") };
/// assert_eq!((request.id.get(), &*request.method), ("1", "tools/call"));
/// assert!(Message::parse(br#"{"jsonrpc":"2.0","id":1,"ID":2,"method":"ping"}"#).is_err());
/// ```
#[derive(Debug)]
pub enum Message<'a> {
    /// Has a method and an id; requires a response.
    Request(Request<'a>),
    /// Has a method and no id; gets no response.
    Notification {
        /// The method, for example `notifications/initialized`.
        method: Cow<'a, str>,
        /// The bytes of the params.
        params: Option<&'a RawValue>,
    },
    /// The response to a request of the receiver.
    Response(Response<'a>),
}

/// A message that requires a response.
///
/// ```
/// use vmcp_gateway::mcp::jsonrpc::{self, Message};
///
/// let Ok(Message::Request(request)) = Message::parse(br#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#) else {
///     panic!("not a request")
/// };
/// let response = jsonrpc::result(request.id, b"{}");
/// assert_eq!(response, r#"{"jsonrpc":"2.0","id":7,"result":{}}"#);
/// ```
#[derive(Debug)]
pub struct Request<'a> {
    /// The id as the sender wrote it, to be repeated in the response.
    pub id: &'a RawValue,
    /// The method, for example `tools/call`.
    pub method: Cow<'a, str>,
    /// The bytes of the params, which are an object.
    pub params: Option<&'a RawValue>,
}

/// The response to a request.
///
/// ```
/// use serde_json::value::RawValue;
/// use vmcp_gateway::mcp::jsonrpc::{Outcome, Response};
///
/// let response = Response::parse(br#"{"jsonrpc":"2.0","id":"7","result":{"n": 1.00}}"#).unwrap();
/// let id: &RawValue = serde_json::from_str("7").unwrap();
/// assert!(response.answers(id));
/// assert!(matches!(response.outcome, Outcome::Result(result) if result.get() == r#"{"n": 1.00}"#));
/// ```
#[derive(Debug)]
pub struct Response<'a> {
    /// The id of the request; `null` if the sender could not read it.
    pub id: &'a RawValue,
    /// The result or the error.
    pub outcome: Outcome<'a>,
}

/// The result or the error of a request.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// The bytes of the result.
    Result(&'a RawValue),
    /// The bytes of the error: an object with `code` and `message`.
    Error(&'a RawValue),
}

/// Why bytes are not a valid message, in words for their sender.
///
/// ```
/// use vmcp_gateway::mcp::jsonrpc::Message;
///
/// let invalid = Message::parse(b"{").unwrap_err();
/// assert_eq!(invalid.code, -32700);
/// assert!(invalid.to_string().starts_with("not JSON: "));
/// ```
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidMessage {
    /// `error_code::PARSE_ERROR`, `error_code::INVALID_REQUEST` or `error_code::INVALID_PARAMS`.
    pub code: i32,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl InvalidMessage {
    fn invalid(message: impl Into<String>) -> Self {
        Self {
            code: error_code::INVALID_REQUEST,
            message: message.into(),
        }
    }
}

/// The keys of the envelope.
pub(super) const ENVELOPE_KEYS: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];

/// The fields of the envelope. A `null` differs from an absent field.
struct Envelope<'a> {
    jsonrpc: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    result: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    /// Parses one message of a client.
    ///
    /// # Errors
    /// If the bytes are not exactly one valid JSON-RPC message.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidMessage> {
        if is_batch(bytes) {
            return Err(InvalidMessage::invalid(
                "a batch is not allowed here; send one message per request",
            ));
        }
        check_depth(bytes)?;
        Self::from_envelope(&envelope(bytes)?)
    }

    /// Parses one message of a backend. Its nesting is not limited, because the params are only forwarded.
    ///
    /// # Errors
    /// If the bytes are not exactly one JSON-RPC message, its id is too long for a relayed id, or it is a response that a strict client
    /// would drop (see [`Response::parse`]).
    pub fn from_backend(bytes: &'a [u8]) -> Result<Self, InvalidMessage> {
        let envelope = backend_envelope(bytes)?;
        let Some(method) = envelope.method else {
            return backend_response(&envelope).map(Self::Response);
        };
        let method = string(method).ok_or_else(|| InvalidMessage::invalid(r#""method" must be a string"#))?;
        let params = envelope.params;
        match envelope.id {
            None => Ok(Self::Notification { method, params }),
            Some(id) if id.get().len() <= MAX_BACKEND_ID_BYTES => {
                Ok(Self::Request(Request { id, method, params }))
            }
            Some(_) => Err(InvalidMessage::invalid(format!(
                r#""id" is longer than {MAX_BACKEND_ID_BYTES} bytes"#
            ))),
        }
    }

    fn from_envelope(envelope: &Envelope<'a>) -> Result<Self, InvalidMessage> {
        if envelope.jsonrpc.and_then(string).as_deref() != Some("2.0") {
            return Err(InvalidMessage::invalid(r#""jsonrpc" must be "2.0""#));
        }
        let Some(method) = envelope.method else {
            // Some SDKs omit the id of an error instead of writing `null`.
            let id = envelope.id.or_else(|| envelope.error.map(|_| RawValue::NULL));
            return response(&Envelope { id, ..*envelope }).map(Message::Response);
        };
        let method = string(method).ok_or_else(|| InvalidMessage::invalid(r#""method" must be a string"#))?;
        if envelope.result.is_some() || envelope.error.is_some() {
            return Err(InvalidMessage::invalid(
                "a message has either a method or a result or error, not both",
            ));
        }
        // Some clients write `null` for missing params.
        let params = envelope.params.filter(|params| params.get() != "null");
        if params.is_some_and(|params| !params.get().starts_with('{')) {
            return Err(InvalidMessage::invalid(r#""params" must be an object"#));
        }
        match envelope.id {
            None => Ok(Self::Notification { method, params }),
            Some(id) if is_valid_id(id) => Ok(Self::Request(Request { id, method, params })),
            Some(_) => Err(InvalidMessage::invalid(format!(
                r#""id" must be a string or an integer of at most {MAX_ID_BYTES} bytes"#
            ))),
        }
    }
}

impl<'a> Response<'a> {
    /// Parses one response of a backend. Its nesting is not limited, because the result is only forwarded.
    ///
    /// # Errors
    /// If the bytes are not exactly one JSON-RPC response with the version and an object as its result or error. Clients silently drop any
    /// other response, and would wait until their own timeout.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidMessage> {
        let envelope = backend_envelope(bytes)?;
        if envelope.method.is_some() {
            return Err(InvalidMessage::invalid(
                "a request came where an answer was expected",
            ));
        }
        backend_response(&envelope)
    }

    /// Whether this is the response to the request with the id `id`. Ids with different bytes are compared as values, because one id can be
    /// written in several ways. Some servers return a number as a string, which is accepted.
    #[must_use]
    pub fn answers(&self, id: &RawValue) -> bool {
        same_id(self.id, id) || is_text_of(self.id, id) || is_text_of(id, self.id)
    }
}

/// Whether the two ids are equal in any spelling. Numbers are compared as doubles, as most parsers read them, so that an id beyond 2^53 is
/// recognized when it comes back rounded.
#[must_use]
pub fn same_id(one: &RawValue, other: &RawValue) -> bool {
    one.get() == other.get() || comparable_id(one) == comparable_id(other)
}

/// Whether `text` is a string with the digits of `number`.
fn is_text_of(text: &RawValue, number: &RawValue) -> bool {
    is_integer(number.get()) && string(text).as_deref() == Some(number.get())
}

/// Canonical form of an id: the same text for all spellings that some parser reads as the same id. Nearly every id is its own canonical
/// form.
#[must_use]
pub fn comparable_id(id: &RawValue) -> Cow<'_, str> {
    let text = id.get();
    if text.starts_with('"') {
        if !text.contains('\\') {
            return text.into();
        }
        let written = string(id).and_then(|id| serde_json::to_string(&id).ok());
        return written.map_or(text.into(), Cow::Owned);
    }
    let is_exact = text.len() <= EXACT_DIGITS && is_integer(text);
    let number = (!is_exact).then(|| text.parse::<f64>());
    match number {
        Some(Ok(number)) => number.to_string().into(),
        _ => text.into(),
    }
}

/// The fields of an envelope that is otherwise invalid. Keys may be duplicate, and values of any type.
#[derive(Debug)]
pub struct EnvelopeFields<'a> {
    /// Whether it has a `method`, so is meant as a request or a notification.
    pub has_method: bool,
    /// Whether it has a `result` or an `error`, so is meant as a response.
    pub has_outcome: bool,
    /// The first `id`, of any JSON type.
    pub id: Option<&'a RawValue>,
    /// Whether there is a second `id`.
    pub has_two_ids: bool,
}

/// The id under which the sender of an invalid message expects the error, if it is unambiguous (JSON-RPC 2.0, section 5). The id of a
/// response was chosen by the other side, so an error with it would answer the wrong request.
#[must_use]
pub fn awaited_id(bytes: &[u8]) -> Option<&RawValue> {
    let fields = EnvelopeFields::of(bytes)?;
    let is_sure = !fields.has_two_ids && (fields.has_method || !fields.has_outcome);
    fields.id.filter(|id| is_sure && is_valid_id(id))
}

impl<'a> EnvelopeFields<'a> {
    /// Reads the fields; `None` if the bytes are not a JSON object.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Option<Self> {
        parse(bytes).ok()
    }
}

impl<'de> Deserialize<'de> for EnvelopeFields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;
        impl<'de> Visitor<'de> for Reading {
            type Value = EnvelopeFields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = EnvelopeFields {
                    has_method: false,
                    has_outcome: false,
                    id: None,
                    has_two_ids: false,
                };
                while let Some((key, value)) = map.next_entry::<Key, &RawValue>()? {
                    step_counter::count(1);
                    match key {
                        Key::Method => fields.has_method = true,
                        Key::Result | Key::Error => fields.has_outcome = true,
                        Key::Id if fields.id.is_some() => fields.has_two_ids = true,
                        Key::Id => fields.id = Some(value),
                        Key::Other => {}
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Reading)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Method,
    Id,
    Result,
    Error,
    #[serde(other)]
    Other,
}

/// Whether `bytes` begin like a batch.
#[must_use]
pub fn is_batch(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'[')
}

/// Splits a batch into its messages.
///
/// # Errors
/// If the bytes are not an array, or the array is empty or has more than 100 elements.
pub fn batch(bytes: &[u8]) -> Result<Vec<&RawValue>, InvalidMessage> {
    let Entries(entries) = parse(bytes)?;
    if entries.is_empty() {
        return Err(InvalidMessage::invalid("a batch must hold a message"));
    }
    Ok(entries)
}

/// Elements of an array, up to [`MAX_BATCH`]; parsing stops at the limit.
struct Entries<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;
        impl<'de> Visitor<'de> for Reading {
            type Value = Entries<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = array.next_element()? {
                    step_counter::count(1);
                    if entries.len() == MAX_BATCH {
                        return Err(A::Error::custom(format_args!(
                            "a batch holds at most {MAX_BATCH} messages"
                        )));
                    }
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_seq(Reading)
    }
}

fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, InvalidMessage> {
    let [jsonrpc, id, method, params, result, error] =
        parse_with(bytes, |text| inspected_keys::read(text, &ENVELOPE_KEYS))?;
    Ok(Envelope {
        jsonrpc,
        id,
        method,
        params,
        result,
        error,
    })
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, InvalidMessage> {
    parse_with(bytes, serde_json::from_str)
}

fn parse_with<'a, T>(
    bytes: &'a [u8],
    read: impl FnOnce(&'a str) -> Result<T, serde_json::Error>,
) -> Result<T, InvalidMessage> {
    // All fields are forwarded, and their readers may require UTF-8.
    let text = std::str::from_utf8(bytes).map_err(|error| InvalidMessage {
        code: error_code::PARSE_ERROR,
        message: format!("not JSON: it is not UTF-8 at byte {}", error.valid_up_to()),
    })?;
    read(text).map_err(|error| match error.classify() {
        Category::Data => InvalidMessage::invalid(format!("not a JSON-RPC message: {error}")),
        Category::Syntax | Category::Eof | Category::Io => InvalidMessage {
            code: error_code::PARSE_ERROR,
            message: format!("not JSON: {error}"),
        },
    })
}

/// Parses the envelope of a backend's message. serde would read an array as the fields in order, so batches are rejected first.
fn backend_envelope(bytes: &[u8]) -> Result<Envelope<'_>, InvalidMessage> {
    if is_batch(bytes) {
        return Err(InvalidMessage::invalid(
            "a batch came where one message was expected",
        ));
    }
    envelope(bytes)
}

fn backend_response<'a>(envelope: &Envelope<'a>) -> Result<Response<'a>, InvalidMessage> {
    if envelope.jsonrpc.and_then(string).as_deref() != Some("2.0") {
        return Err(InvalidMessage::invalid(r#"it has no "jsonrpc":"2.0""#));
    }
    let response = response(envelope)?;
    match response.outcome {
        Outcome::Result(result) if !result.get().starts_with('{') => {
            Err(InvalidMessage::invalid("its result is not an object"))
        }
        Outcome::Error(error) if !is_error(error) => Err(InvalidMessage::invalid(
            "its error is not an object with an integer code and a message",
        )),
        _ => Ok(response),
    }
}

/// Whether `error` has an integer `code` and a string `message` (JSON-RPC 2.0, 5.1).
fn is_error(error: &RawValue) -> bool {
    match inspected_keys::read(error.get(), &["code", "message"]) {
        Ok([Some(code), Some(message)]) => is_integer(code.get()) && message.get().starts_with('"'),
        _ => false,
    }
}

fn response<'a>(envelope: &Envelope<'a>) -> Result<Response<'a>, InvalidMessage> {
    let id = envelope
        .id
        .ok_or_else(|| InvalidMessage::invalid(r#"a message needs a "method" or an "id""#))?;
    let outcome = match (envelope.result, envelope.error) {
        (Some(result), None) => Outcome::Result(result),
        (None, Some(error)) => Outcome::Error(error),
        _ => {
            return Err(InvalidMessage::invalid(
                r#"a response has either a "result" or an "error""#,
            ));
        }
    };
    Ok(Response { id, outcome })
}

/// Whether `id` is a string or an integer, as MCP requires (specification, basic). Half of a surrogate pair is a different character in
/// every parser. Integers may be written as `1.0` or `1e2`.
fn is_valid_id(id: &RawValue) -> bool {
    let text = id.get();
    let is_text = || text.starts_with('"') && string(id).is_some();
    let is_whole = || text.parse().is_ok_and(|number: f64| number.fract() == 0.0);
    text.len() <= MAX_ID_BYTES && (is_text() || is_integer(text) || is_whole())
}

/// Whether a request is forwarded with this id. Parsers return `1.0` and `-0` in other forms, so a request with such an id, or with a very
/// long one, gets an id of the gateway's own.
#[must_use]
pub fn is_forwardable_id(id: &RawValue) -> bool {
    let text = id.get();
    let is_plain = text.starts_with('"') || is_integer(text) && text != "-0";
    text.len() <= MAX_FORWARDED_ID_BYTES && is_plain
}

fn is_integer(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Decodes a JSON string, without a copy if it has no escapes; `None` if `raw` is not a string.
#[must_use]
pub fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(raw.get()).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

fn check_depth(bytes: &[u8]) -> Result<(), InvalidMessage> {
    // Nesting cannot exceed the number of opening brackets, and counting them is much cheaper than tracking strings.
    let opening = bytes.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if opening <= MAX_DEPTH {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        step_counter::count(1);
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth = depth.saturating_add(1),
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(InvalidMessage::invalid(format!(
                "the JSON nests deeper than {MAX_DEPTH} levels"
            )));
        }
    }
    Ok(())
}

/// Whether `id` begins with [`RESERVED_ID_PREFIX`].
#[must_use]
pub fn is_reserved_id(id: &RawValue) -> bool {
    string(id).is_some_and(|id| id.starts_with(RESERVED_ID_PREFIX))
}
