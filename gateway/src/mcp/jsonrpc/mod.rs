//! JSON-RPC 2.0 messages, borrowed from the bytes they came in.
//!
//! Only the envelope is read: `jsonrpc`, `id`, `method`, and where each other field begins and ends. Parameters and results
//! stay the bytes that the sender wrote, so that unknown fields and number formats survive. A message that two readers could take for two
//! different ones is refused ([`inspected_keys`]).

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

/// The longest request id that is accepted, in bytes. Clients use small integers or UUIDs.
const MAX_ID_BYTES: usize = 1024;
/// The longest one that goes upstream, where it becomes a part of the names of events.
const MAX_SENT_ID_BYTES: usize = 256;

/// The longest id of a backend's own request: another gateway may be the backend, and its ids carry those of its backends.
const MAX_BACKEND_ID_BYTES: usize = 1024;

/// What ids and progress tokens begin with that stand for a backend's own. Clients may not give such ids to their requests, so that it is
/// clear what a client cancels. A gateway in front of this one gives none either: it passes its clients' ids on, and counts for itself.
pub const RESERVED_ID_PREFIX: &str = "vmcp:";

/// Integers of so many digits are the same in every parser; of larger ones, doubles keep the first digits only.
const EXACT_DIGITS: usize = 15;

/// How deep the JSON of a request may nest. Deeper than any real schema, shallow enough for every parser behind us.
const MAX_DEPTH: usize = 128;

/// How many messages a batch may hold.
const MAX_BATCH: usize = 100;

/// A message that came in.
#[derive(Debug)]
pub enum Message<'a> {
    /// Wants an answer.
    Request(Request<'a>),
    /// Wants none.
    Notification {
        /// The method, for example `notifications/initialized`.
        method: Cow<'a, str>,
        /// The parameters' bytes.
        params: Option<&'a RawValue>,
    },
    /// Answers a request that the receiver sent.
    Response(Response<'a>),
}

/// A message that wants an answer.
#[derive(Debug)]
pub struct Request<'a> {
    /// The id as the client wrote it, for the answer.
    pub id: &'a RawValue,
    /// The method, for example `tools/call`.
    pub method: Cow<'a, str>,
    /// The parameters' bytes; an object where present.
    pub params: Option<&'a RawValue>,
}

/// A message that answers a request.
#[derive(Debug)]
pub struct Response<'a> {
    /// The id of the request; `null` where the other side could not read it.
    pub id: &'a RawValue,
    /// What came of it.
    pub outcome: Outcome<'a>,
}

/// What came of a request.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// The result's bytes.
    Result(&'a RawValue),
    /// The error's bytes: an object with `code` and `message`.
    Error(&'a RawValue),
}

/// Why bytes are not a message, for the one who sent them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidMessage {
    /// [`error_code::PARSE_ERROR`], [`error_code::INVALID_REQUEST`] or [`error_code::INVALID_PARAMS`].
    pub code: i32,
    /// What was found and what is allowed.
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

/// The keys of a message's own object.
pub(super) const ENVELOPE_KEYS: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];

/// The fields of a message's own object. `null` is not the same as a field that is absent.
struct Envelope<'a> {
    jsonrpc: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    result: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    /// Reads one message that a client sent.
    ///
    /// # Errors
    /// When the bytes are not one JSON-RPC message.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidMessage> {
        if is_batch(bytes) {
            return Err(InvalidMessage::invalid(
                "a batch is not allowed here; send one message per request",
            ));
        }
        check_depth(bytes)?;
        Self::from_envelope(&envelope(bytes)?)
    }

    /// Reads one message that a backend sent. What is only passed on is not judged: it may nest as deep as it likes.
    ///
    /// # Errors
    /// When the bytes are not one JSON-RPC message, its id is longer than a minted one can carry, or it is a response that a strict client
    /// would drop (see [`Response::parse`]).
    pub fn from_backend(bytes: &'a [u8]) -> Result<Self, InvalidMessage> {
        let envelope = backends_envelope(bytes)?;
        let Some(method) = envelope.method else {
            return backends_response(&envelope).map(Self::Response);
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
            // An error without an id is one with an id of null: some SDKs write it so.
            let id = envelope.id.or_else(|| envelope.error.map(|_| RawValue::NULL));
            return response(&Envelope { id, ..*envelope }).map(Message::Response);
        };
        let method = string(method).ok_or_else(|| InvalidMessage::invalid(r#""method" must be a string"#))?;
        if envelope.result.is_some() || envelope.error.is_some() {
            return Err(InvalidMessage::invalid(
                "a message has either a method or a result or error, not both",
            ));
        }
        // Some clients write null where they have none.
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
    /// Reads the one response that a backend sent. A backend's JSON may nest as deep as it likes: it is only passed on.
    ///
    /// # Errors
    /// When the bytes are not one JSON-RPC response with the version, and an object as the result or the error. Clients drop anything else
    /// without a word, and would wait for the answer until their own deadline.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidMessage> {
        let envelope = backends_envelope(bytes)?;
        if envelope.method.is_some() {
            return Err(InvalidMessage::invalid(
                "a request came where an answer was expected",
            ));
        }
        backends_response(&envelope)
    }

    /// Whether this answers the request with the id `id`, in whose answer's place it came. The same id may be written in two ways, so that
    /// equal bytes are enough, but unequal ones are compared as values. Some servers write numbers as texts.
    #[must_use]
    pub fn answers(&self, id: &RawValue) -> bool {
        same_id(self.id, id) || is_text_of(self.id, id) || is_text_of(id, self.id)
    }
}

/// Whether the two ids are the same, in whatever spelling. Numbers are compared as the doubles that most parsers make of them, so that an
/// id beyond 2^53 is known again when it comes back rounded.
#[must_use]
pub fn same_id(one: &RawValue, other: &RawValue) -> bool {
    one.get() == other.get() || comparable_id(one) == comparable_id(other)
}

/// Whether `text` is the text that holds the digits of `number`.
fn is_text_of(text: &RawValue, number: &RawValue) -> bool {
    is_integer(number.get()) && string(text).as_deref() == Some(number.get())
}

/// The id as it is compared: the same text for all spellings that some parser takes for the same id. Nearly none is anything but what
/// stands there.
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

/// What can be told of a message of which nothing else is sure: it may have keys twice, and values of any kind.
#[derive(Debug)]
pub struct EnvelopeFields<'a> {
    /// Whether it asks or notifies, as far as can be told.
    pub has_method: bool,
    /// Whether it answers, as far as can be told.
    pub has_outcome: bool,
    /// The first of its ids.
    pub id: Option<&'a RawValue>,
    /// Whether it has another id.
    pub has_two_ids: bool,
}

/// The id under which the sender of a message that is none waits for an answer, where there can be no doubt (JSON-RPC 2.0, section 5). A
/// message that answers has an id of the other side's: an error under it would answer a request that is not meant.
#[must_use]
pub fn awaited_id(bytes: &[u8]) -> Option<&RawValue> {
    let sketch = EnvelopeFields::of(bytes)?;
    let is_sure = !sketch.has_two_ids && (sketch.has_method || !sketch.has_outcome);
    sketch.id.filter(|id| is_sure && is_valid_id(id))
}

impl<'a> EnvelopeFields<'a> {
    /// `None` when the bytes are no JSON object.
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
                let mut sketch = EnvelopeFields {
                    has_method: false,
                    has_outcome: false,
                    id: None,
                    has_two_ids: false,
                };
                while let Some((key, value)) = map.next_entry::<Key, &RawValue>()? {
                    step_counter::count(1);
                    match key {
                        Key::Method => sketch.has_method = true,
                        Key::Result | Key::Error => sketch.has_outcome = true,
                        Key::Id if sketch.id.is_some() => sketch.has_two_ids = true,
                        Key::Id => sketch.id = Some(value),
                        Key::Other => {}
                    }
                }
                Ok(sketch)
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

/// Whether `bytes` begin as a batch does.
#[must_use]
pub fn is_batch(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'[')
}

/// The messages of a batch, each as it stands there.
///
/// # Errors
/// When the bytes are no array, or one that holds nothing or too much.
pub fn batch(bytes: &[u8]) -> Result<Vec<&RawValue>, InvalidMessage> {
    let Entries(entries) = parse(bytes)?;
    if entries.is_empty() {
        return Err(InvalidMessage::invalid("a batch must hold a message"));
    }
    Ok(entries)
}

/// What an array holds. One that holds too much is given up as soon as it does.
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
    // Fields that nobody here reads are passed on too, and whoever reads them may expect UTF-8.
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

/// What a backend sent. An array would otherwise be taken for the values of the fields in their order.
fn backends_envelope(bytes: &[u8]) -> Result<Envelope<'_>, InvalidMessage> {
    if is_batch(bytes) {
        return Err(InvalidMessage::invalid(
            "a batch came where one message was expected",
        ));
    }
    envelope(bytes)
}

fn backends_response<'a>(envelope: &Envelope<'a>) -> Result<Response<'a>, InvalidMessage> {
    if envelope.jsonrpc.and_then(string).as_deref() != Some("2.0") {
        return Err(InvalidMessage::invalid(r#"it has no "jsonrpc":"2.0""#));
    }
    let response = response(envelope)?;
    match response.outcome {
        Outcome::Result(result) if !result.get().starts_with('{') => {
            Err(InvalidMessage::invalid("its result is no object"))
        }
        Outcome::Error(error) if !is_error(error) => Err(InvalidMessage::invalid(
            "its error is no object with a code, an integer, and a message",
        )),
        _ => Ok(response),
    }
}

/// An object with an integer as `code` and a text as `message` (JSON-RPC 2.0, 5.1).
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

/// MCP allows strings and integers as ids, not `null` and no fractions (specification, basic). Half of a surrogate pair is another character
/// in every parser. Integers may be written as `1.0` or `1e2`.
fn is_valid_id(id: &RawValue) -> bool {
    let text = id.get();
    let is_text = || text.starts_with('"') && string(id).is_some();
    let is_whole = || text.parse().is_ok_and(|number: f64| number.fract() == 0.0);
    text.len() <= MAX_ID_BYTES && (is_text() || is_integer(text) || is_whole())
}

/// Whether a request with this id goes upstream under it. Parsers write `1.0` and `-0` in other ways when they answer, so that requests with
/// such an id, or with a very long one, go under one of the gateway's own.
#[must_use]
pub fn is_sent_on(id: &RawValue) -> bool {
    let text = id.get();
    let is_plain = text.starts_with('"') || is_integer(text) && text != "-0";
    text.len() <= MAX_SENT_ID_BYTES && is_plain
}

fn is_integer(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The string that `raw` is, without a copy where it holds no escapes.
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
    // What opens less often than that cannot be deeper, and counting is far cheaper than following strings.
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

/// Whether `id` is one that only the gateway may use.
#[must_use]
pub fn is_reserved_id(id: &RawValue) -> bool {
    string(id).is_some_and(|id| id.starts_with(RESERVED_ID_PREFIX))
}
