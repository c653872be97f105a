//! Reads the params that identify what a request addresses, and skips the rest.
//!
//! The gateway and a backend must not read two different names. So each inspected key must be unique, and no other key may resemble it
//! (`inspected_keys`). The same holds for keys that gateways on the way to a backend read: `arguments`, `_meta`, and the keys that the
//! specification defines in `_meta`.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::jsonrpc::{InvalidMessage, string};
use super::revision::MAX_REVISION_BYTES;
use super::{client_description, inspected_keys, meta};
use crate::mcp::error_code;
use crate::mcp::object_edit::EditedObject;
use crate::runtime::truncate::head;

/// A string in the params: its raw JSON, and its decoded text.
pub type JsonString<'a> = (&'a RawValue, Cow<'a, str>);

/// The target of a completion.
#[derive(Debug)]
pub enum Reference<'a> {
    /// An argument of the prompt with this name.
    Prompt(JsonString<'a>),
    /// A variable of the resource template with this URI, or of a resource.
    Resource(JsonString<'a>),
}

/// The `name` of `tools/call` and `prompts/get`.
///
/// # Errors
/// If it is missing or not a string, or the params are ambiguous.
pub fn name(params: Option<&RawValue>) -> Result<JsonString<'_>, InvalidMessage> {
    let [name, _, meta] = read(params, &["name", "arguments", "_meta"])?;
    check_meta(meta)?;
    text(name, "name")
}

/// The `name` of `tools/call`, and its `task`, even if that is `null`.
///
/// # Errors
/// As [`name`].
pub fn tool(params: Option<&RawValue>) -> Result<(JsonString<'_>, Option<&RawValue>), InvalidMessage> {
    let [name, _, meta, task] = read_all(params, &["name", "arguments", "_meta", "task"])?;
    check_meta(not_null(meta))?;
    Ok((text(not_null(name), "name")?, task))
}

/// The `uri` of `resources/read`, `resources/subscribe` and `resources/unsubscribe`.
///
/// # Errors
/// As [`name`].
pub fn uri(params: Option<&RawValue>) -> Result<JsonString<'_>, InvalidMessage> {
    let [uri, meta] = read(params, &["uri", "_meta"])?;
    check_meta(meta)?;
    text(uri, "uri")
}

/// The string `key` of a listed item.
///
/// # Errors
/// As [`name`].
pub fn key_of_item<'a>(item: &'a RawValue, key: &'static str) -> Result<JsonString<'a>, InvalidMessage> {
    let [value] = read(Some(item), &[key])?;
    text(value, key)
}

/// The `cursor` of a list request, if it has one.
///
/// # Errors
/// If it is not a string, or the params are ambiguous.
pub fn cursor(params: Option<&RawValue>) -> Result<Option<Cow<'_, str>>, InvalidMessage> {
    let [cursor, meta] = read(params, &["cursor", "_meta"])?;
    check_meta(meta)?;
    match cursor {
        None => Ok(None),
        cursor => text(cursor, "cursor").map(|(_, cursor)| Some(cursor)),
    }
}

/// The `ref` of `completion/complete`.
///
/// # Errors
/// If it is missing, refers to neither a prompt nor a resource, or is ambiguous.
pub fn reference(params: Option<&RawValue>) -> Result<Reference<'_>, InvalidMessage> {
    let [reference, _, _, meta] = read(params, &["ref", "argument", "context", "_meta"])?;
    check_meta(meta)?;
    let object = reference.filter(|reference| reference.get().starts_with('{'));
    let object = object.ok_or_else(|| invalid_param("ref", "an object"))?;
    let [kind, name, uri] = read(Some(object), &["type", "name", "uri"])?;
    match &*text(kind, "ref.type")?.1 {
        "ref/prompt" => text(name, "ref.name").map(Reference::Prompt),
        "ref/resource" => text(uri, "ref.uri").map(Reference::Resource),
        _ => Err(invalid_param("ref.type", "ref/prompt or ref/resource")),
    }
}

/// Maximum bytes of the reason in an error about an object, which may quote a key.
const MAX_REASON_BYTES: usize = 300;
/// Maximum bytes of `capabilities` and of `clientInfo`. Both are stored with every session.
const MAX_CLIENT_BYTES: usize = 16 * 1024;

/// The params of `initialize`.
#[derive(Debug)]
pub struct InitializeRequest<'a> {
    /// The requested revision; empty if it is missing.
    pub protocol_version: Cow<'a, str>,
    /// The client's capabilities, an object.
    pub capabilities: Cow<'a, RawValue>,
    /// The client's name and version, an object.
    pub client_info: Cow<'a, RawValue>,
}

/// Reads the params of `initialize`. Missing or malformed values are repaired, as servers with the Go SDK do. A client that requests no
/// revision gets the latest.
///
/// # Errors
/// If a value is too large, or the params or one of the two objects are ambiguous.
pub fn initialize(params: Option<&RawValue>) -> Result<InitializeRequest<'_>, InvalidMessage> {
    let [version, capabilities, info, meta] = read(
        params,
        &["protocolVersion", "capabilities", "clientInfo", "_meta"],
    )?;
    check_meta(meta)?;
    let version = at_most(MAX_REVISION_BYTES, version, "protocolVersion")?;
    let capabilities = object(capabilities, "capabilities")?;
    // These capabilities decide what backends may request of the client.
    if let Some(object) = capabilities.filter(|capabilities| capabilities.get().starts_with('{')) {
        read(Some(object), &["roots", "sampling", "elicitation", "tasks"])?;
    }
    Ok(InitializeRequest {
        protocol_version: version.and_then(string).unwrap_or_default(),
        capabilities: client_description::capabilities(capabilities),
        client_info: client_description::info(object(info, "clientInfo")?),
    })
}

/// Rejects a value larger than `bytes`, before it is parsed.
fn at_most<'a>(
    bytes: usize,
    raw: Option<&'a RawValue>,
    key: &str,
) -> Result<Option<&'a RawValue>, InvalidMessage> {
    if raw.is_some_and(|raw| raw.get().len() > bytes) {
        return Err(InvalidMessage {
            code: error_code::INVALID_PARAMS,
            message: format!("params: {key:?} is larger than {bytes} bytes"),
        });
    }
    Ok(raw)
}

/// Rejects a value that is too large, or an ambiguous object.
fn object<'a>(raw: Option<&'a RawValue>, key: &str) -> Result<Option<&'a RawValue>, InvalidMessage> {
    let raw = at_most(MAX_CLIENT_BYTES, raw, key)?;
    let Some(object) = raw.filter(|raw| raw.get().starts_with('{')) else {
        return Ok(raw);
    };
    match EditedObject::read(object.get()) {
        Ok(_) => Ok(raw),
        Err(error) => Err(InvalidMessage {
            code: error_code::INVALID_REQUEST,
            message: format!("params: {key:?}: {}", head(&error.to_string(), MAX_REASON_BYTES)),
        }),
    }
}

/// Rejects a `_meta` in which a key that the specification defines is ambiguous, because progress is routed by one of them.
pub(super) fn check_meta(meta: Option<&RawValue>) -> Result<(), InvalidMessage> {
    let object = meta.filter(|meta| meta.get().starts_with('{'));
    object.map_or(Ok(()), |meta| read(Some(meta), &meta::KEYS).map(drop))
}

/// The values of `keys` in the params or an object inside; `null` counts as absent.
pub(super) fn read<'a, const N: usize>(
    params: Option<&'a RawValue>,
    keys: &[&'static str; N],
) -> Result<[Option<&'a RawValue>; N], InvalidMessage> {
    Ok(read_all(params, keys)?.map(not_null))
}

/// As [`read`], but keeps `null`.
fn read_all<'a, const N: usize>(
    params: Option<&'a RawValue>,
    keys: &[&'static str; N],
) -> Result<[Option<&'a RawValue>; N], InvalidMessage> {
    let text = params.map_or("{}", RawValue::get);
    inspected_keys::read(text, keys).map_err(|error| InvalidMessage {
        code: error_code::INVALID_REQUEST,
        message: format!("params: {error}"),
    })
}

fn not_null(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|raw| raw.get() != "null")
}

fn text<'a>(raw: Option<&'a RawValue>, key: &str) -> Result<JsonString<'a>, InvalidMessage> {
    raw.and_then(|raw| Some((raw, string(raw)?)))
        .ok_or_else(|| invalid_param(key, "a string"))
}

fn invalid_param(key: &str, expected: &str) -> InvalidMessage {
    InvalidMessage {
        code: error_code::INVALID_PARAMS,
        message: format!("params: {key:?} must be {expected}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::step_counter::counted;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn duplicate_key_is_refused_even_if_escaped() {
        let doubled = raw(r#"{"uri":"a","ur\u0069":"b"}"#);
        assert_eq!(uri(Some(&doubled)).unwrap_err().code, error_code::INVALID_REQUEST);
        let doubled = raw(r#"{"ref":{"type":"ref/prompt","name":"a","name":"b"}}"#);
        assert_eq!(
            reference(Some(&doubled)).unwrap_err().code,
            error_code::INVALID_REQUEST
        );
        let doubled = raw(r#"{"name":"a","n\u0061me":"b"}"#);
        assert_eq!(
            name(Some(&doubled)).unwrap_err().code,
            error_code::INVALID_REQUEST
        );
    }

    #[test]
    fn keys_that_intermediate_gateways_read_are_unique() {
        let fault = |read: &dyn Fn(&RawValue) -> Option<InvalidMessage>, params: &str| {
            read(&raw(params)).map(|fault| fault.code)
        };
        type Read<'a> = (&'a str, &'a dyn Fn(&RawValue) -> Option<InvalidMessage>);
        let readers: [Read<'_>; 6] = [
            (r#""name":"a""#, &|params| name(Some(params)).err()),
            (r#""uri":"a""#, &|params| uri(Some(params)).err()),
            (r#""cursor":"a""#, &|params| cursor(Some(params)).err()),
            (r#""ref":{"type":"ref/prompt","name":"a"}"#, &|params| {
                reference(Some(params)).err()
            }),
            (
                r#""protocolVersion":"x","capabilities":{},"clientInfo":{}"#,
                &|params| initialize(Some(params)).err(),
            ),
            (r#""level":"info""#, &|params| {
                crate::mcp::correlation::level(Some(params)).err()
            }),
        ];
        for (field, read) in readers {
            let with = |more: &str| fault(read, &format!("{{{field},{more}}}"));
            assert_eq!(
                with(r#""_meta":{"progressToken":1,"x":1,"x":2}"#),
                None,
                "{field}"
            );
            assert_eq!(with(r#""_meta":1"#), None, "{field}");
            for twice in [
                r#""_meta":{},"_meta":{}"#,
                r#""_meta":{},"_m\u0065ta":{}"#,
                r#""_meta":{"progressToken":1,"progressToken":2}"#,
                r#""_meta":{"progressToken":1,"progress\u0054oken":2}"#,
            ] {
                assert_eq!(with(twice), Some(error_code::INVALID_REQUEST), "{field}, {twice}");
            }
        }
        let call = raw(r#"{"name":"a","arguments":{"x":1,"x":2},"\u0061rguments":{}}"#);
        assert_eq!(name(Some(&call)).unwrap_err().code, error_code::INVALID_REQUEST);
    }

    #[test]
    fn initialize_params_are_unique() {
        let (version, capabilities, info) = (
            r#""protocolVersion":"x""#,
            r#""capabilities":{}"#,
            r#""clientInfo":{"a":1}"#,
        );
        let code = |fields: &[&str]| -> i32 {
            let params = raw(&format!("{{{}}}", fields.join(",")));
            initialize(Some(&params)).map_or_else(|fault| fault.code, |_| 0)
        };
        assert_eq!(code(&[version, capabilities, info, r#""_meta":{}"#]), 0);
        for missing in [&[capabilities, info], &[version, info], &[version, capabilities]] {
            assert_eq!(code(missing), 0, "{missing:?}");
        }
        assert_eq!(code(&[version, r#""capabilities":[]"#, info]), 0);
        for twice in [
            [version, capabilities, info, r#""protocol\u0056ersion":"y""#],
            [version, capabilities, info, info],
        ] {
            assert_eq!(code(&twice), error_code::INVALID_REQUEST, "{twice:?}");
        }
        let twice = r#""capabilities":{"roots":{},"r\u006fots":{}}"#;
        assert_eq!(code(&[version, twice, info]), error_code::INVALID_REQUEST);
    }

    #[test]
    fn too_large_initialize_params_are_not_parsed() {
        let keys: Vec<_> = (0..40_000).map(|number| format!(r#""k{number}":{{}}"#)).collect();
        let (large, small) = (format!("{{{}}}", keys.join(",")), "{}");
        let long = "x".repeat(3 << 20);
        for (field, version, capabilities, info, most) in [
            ("capabilities", "x", large.as_str(), small, MAX_CLIENT_BYTES),
            ("clientInfo", "x", small, large.as_str(), MAX_CLIENT_BYTES),
            ("protocolVersion", long.as_str(), small, small, MAX_REVISION_BYTES),
        ] {
            let params = raw(&format!(
                r#"{{"protocolVersion":"{version}","capabilities":{capabilities},"clientInfo":{info}}}"#
            ));
            let mut fault = None;
            let steps = counted(|| fault = initialize(Some(&params)).err());
            let expected = InvalidMessage {
                code: error_code::INVALID_PARAMS,
                message: format!("params: {field:?} is larger than {most} bytes"),
            };
            assert_eq!(fault, Some(expected));
            assert!(steps < 10, "{steps}");
        }
    }

    #[test]
    fn missing_or_non_string_param_is_named() {
        for text in [r#"{}"#, r#"{"uri":1}"#, r#"{"uri":null}"#] {
            let fault = uri(Some(&raw(text))).unwrap_err();
            assert_eq!(fault.code, error_code::INVALID_PARAMS);
            assert!(fault.message.contains(r#""uri""#), "{fault}");
        }
        for text in [
            "{}",
            r#"{"ref":"x"}"#,
            r#"{"ref":["ref/prompt","x"]}"#,
            r#"{"ref":{"type":"ref/tool","name":"x"}}"#,
            r#"{"ref":{"type":"ref/prompt"}}"#,
        ] {
            assert_eq!(
                reference(Some(&raw(text))).unwrap_err().code,
                error_code::INVALID_PARAMS,
                "{text}"
            );
        }
    }

    #[test]
    fn cursor_may_be_absent_or_empty() {
        assert_eq!(cursor(None).unwrap(), None);
        assert_eq!(cursor(Some(&raw(r#"{"_meta":{}}"#))).unwrap(), None);
        assert_eq!(cursor(Some(&raw(r#"{"cursor":""}"#))).unwrap().unwrap(), "");
        assert_eq!(
            cursor(Some(&raw(r#"{"cursor":5}"#))).unwrap_err().code,
            error_code::INVALID_PARAMS
        );
    }
}
