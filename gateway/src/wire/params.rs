//! The parameters that say what a request is about, read without touching the rest. A key that is read here and stands twice is
//! refused: the gateway and a backend must not read two names. So is one that gateways on the way to a backend read: `arguments`, `_meta`,
//! and the progress token in it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::code;
use super::jsonrpc::{Fault, string};
use super::object::Object;
use super::revision::MAX_REVISION_BYTES;
use crate::text::head;

/// A string of the parameters: where it stands, and what it says.
pub type Text<'a> = (&'a RawValue, Cow<'a, str>);

/// What a completion is for.
#[derive(Debug)]
pub enum Reference<'a> {
    /// An argument of the prompt of that name.
    Prompt(Text<'a>),
    /// A variable of the resource template, or of the resource, with that URI.
    Resource(Text<'a>),
}

/// The `name` of `tools/call` and `prompts/get`, and of whatever else has a name.
///
/// # Errors
/// When it is missing, no string, or stands twice.
pub fn name(params: Option<&RawValue>) -> Result<Text<'_>, Fault> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow, default)]
        name: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "arguments")]
        _arguments: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    let named: Named<'_> = read(params)?;
    check_meta(named.meta)?;
    text(named.name, "name")
}

/// The `uri` of `resources/read` and its kin.
///
/// # Errors
/// As [`name`].
pub fn uri(params: Option<&RawValue>) -> Result<Text<'_>, Fault> {
    #[derive(Deserialize)]
    struct Located<'a> {
        #[serde(borrow, default)]
        uri: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    let located: Located<'_> = read(params)?;
    check_meta(located.meta)?;
    text(located.uri, "uri")
}

/// The `uriTemplate` of a resource template.
///
/// # Errors
/// As [`name`].
pub fn uri_template(params: Option<&RawValue>) -> Result<Text<'_>, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Located<'a> {
        #[serde(borrow, default)]
        uri_template: Option<&'a RawValue>,
    }
    text(read::<Located<'_>>(params)?.uri_template, "uriTemplate")
}

/// The `cursor` of a list, if there is one.
///
/// # Errors
/// When it is no string, or stands twice.
pub fn cursor(params: Option<&RawValue>) -> Result<Option<Cow<'_, str>>, Fault> {
    #[derive(Deserialize)]
    struct Paged<'a> {
        #[serde(borrow, default)]
        cursor: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    let paged: Paged<'_> = read(params)?;
    check_meta(paged.meta)?;
    match paged.cursor {
        None => Ok(None),
        cursor => text(cursor, "cursor").map(|(_, cursor)| Some(cursor)),
    }
}

/// The `ref` of `completion/complete`.
///
/// # Errors
/// When it is missing, neither of a prompt nor of a resource, or stands twice.
pub fn reference(params: Option<&RawValue>) -> Result<Reference<'_>, Fault> {
    #[derive(Deserialize)]
    struct Completed<'a> {
        #[serde(borrow, default)]
        r#ref: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Ref<'a> {
        #[serde(borrow, default)]
        r#type: Option<&'a RawValue>,
        #[serde(borrow, default)]
        name: Option<&'a RawValue>,
        #[serde(borrow, default)]
        uri: Option<&'a RawValue>,
    }
    let completed: Completed<'_> = read(params)?;
    check_meta(completed.meta)?;
    let object = completed
        .r#ref
        .filter(|reference| reference.get().starts_with('{'));
    let reference: Ref<'_> = read(Some(object.ok_or_else(|| unfit("ref", "an object"))?))?;
    match &*text(reference.r#type, "ref.type")?.1 {
        "ref/prompt" => text(reference.name, "ref.name").map(Reference::Prompt),
        "ref/resource" => text(reference.uri, "ref.uri").map(Reference::Resource),
        _ => Err(unfit("ref.type", "ref/prompt or ref/resource")),
    }
}

/// The most bytes of what is wrong with an object: it may quote a key.
const MAX_REASON_BYTES: usize = 300;
/// How much a client may say of its capabilities, and of itself, in bytes: it is stored with every session.
const MAX_CLIENT_BYTES: usize = 16 * 1024;

/// What a client says in `initialize`.
#[derive(Debug)]
pub struct Initialize<'a> {
    /// The revision that it asks for.
    pub protocol_version: Cow<'a, str>,
    /// What it can do: an object.
    pub capabilities: &'a RawValue,
    /// Its name and version: an object.
    pub client_info: &'a RawValue,
}

/// The parameters of `initialize`.
///
/// # Errors
/// When one is missing, of another kind, or too large, or a key stands twice in them or in one of the two objects.
pub fn initialize(params: Option<&RawValue>) -> Result<Initialize<'_>, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Params<'a> {
        #[serde(borrow, default)]
        protocol_version: Option<&'a RawValue>,
        #[serde(borrow, default)]
        capabilities: Option<&'a RawValue>,
        #[serde(borrow, default)]
        client_info: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    let params: Params<'_> = read(params)?;
    check_meta(params.meta)?;
    Ok(Initialize {
        protocol_version: text(
            at_most(MAX_REVISION_BYTES, params.protocol_version, "protocolVersion")?,
            "protocolVersion",
        )?
        .1,
        capabilities: object(params.capabilities, "capabilities")?,
        client_info: object(params.client_info, "clientInfo")?,
    })
}

/// `raw`, unless it is too large to be looked into.
fn at_most<'a>(bytes: usize, raw: Option<&'a RawValue>, key: &str) -> Result<Option<&'a RawValue>, Fault> {
    if raw.is_some_and(|raw| raw.get().len() > bytes) {
        return Err(Fault {
            code: code::INVALID_PARAMS,
            message: format!("params: {key:?} is larger than {bytes} bytes"),
        });
    }
    Ok(raw)
}

fn object<'a>(raw: Option<&'a RawValue>, key: &str) -> Result<&'a RawValue, Fault> {
    let raw = at_most(MAX_CLIENT_BYTES, raw, key)?
        .filter(|raw| raw.get().starts_with('{'))
        .ok_or_else(|| unfit(key, "an object"))?;
    match Object::read(raw.get()) {
        Ok(_) => Ok(raw),
        Err(error) => Err(Fault {
            code: code::INVALID_REQUEST,
            message: format!("params: {key:?}: {}", head(&error.to_string(), MAX_REASON_BYTES)),
        }),
    }
}

/// Refuses a `_meta` in which the progress token stands twice: whoever leads progress to its call reads it.
pub(super) fn check_meta(meta: Option<&RawValue>) -> Result<(), Fault> {
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, default, rename = "progressToken")]
        _progress_token: Option<&'a RawValue>,
    }
    let object = meta.filter(|meta| meta.get().starts_with('{'));
    object.map_or(Ok(()), |meta| read::<Meta<'_>>(Some(meta)).map(drop))
}

fn read<'a, T: Deserialize<'a>>(params: Option<&'a RawValue>) -> Result<T, Fault> {
    let text = params.map_or("{}", RawValue::get);
    let fault = |message: String| Fault {
        code: code::INVALID_REQUEST,
        message,
    };
    // Without this a list would be read as the object's fields in their order.
    if !text.starts_with('{') {
        return Err(fault("params: expected an object".to_owned()));
    }
    serde_json::from_str(text).map_err(|error| fault(format!("params: {error}")))
}

fn text<'a>(raw: Option<&'a RawValue>, key: &str) -> Result<Text<'a>, Fault> {
    raw.and_then(|raw| Some((raw, string(raw)?)))
        .ok_or_else(|| unfit(key, "a string"))
}

fn unfit(key: &str, expected: &str) -> Fault {
    Fault {
        code: code::INVALID_PARAMS,
        message: format!("params: {key:?} must be {expected}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::counted;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_also_when_escaped() {
        let doubled = raw(r#"{"uri":"a","ur\u0069":"b"}"#);
        assert_eq!(uri(Some(&doubled)).unwrap_err().code, code::INVALID_REQUEST);
        let doubled = raw(r#"{"ref":{"type":"ref/prompt","name":"a","name":"b"}}"#);
        assert_eq!(reference(Some(&doubled)).unwrap_err().code, code::INVALID_REQUEST);
        let doubled = raw(r#"{"name":"a","n\u0061me":"b"}"#);
        assert_eq!(name(Some(&doubled)).unwrap_err().code, code::INVALID_REQUEST);
    }

    #[test]
    fn what_gateways_on_the_way_read_stands_once_too() {
        let fault = |read: &dyn Fn(&RawValue) -> Option<Fault>, params: &str| {
            read(&raw(params)).map(|fault| fault.code)
        };
        type Read<'a> = (&'a str, &'a dyn Fn(&RawValue) -> Option<Fault>);
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
                crate::wire::mapped::level(Some(params)).err()
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
                assert_eq!(with(twice), Some(code::INVALID_REQUEST), "{field}, {twice}");
            }
        }
        let call = raw(r#"{"name":"a","arguments":{"x":1,"x":2},"\u0061rguments":{}}"#);
        assert_eq!(name(Some(&call)).unwrap_err().code, code::INVALID_REQUEST);
    }

    #[test]
    fn initialize_says_three_things_and_each_of_them_once() {
        let (version, capabilities, info) = (
            r#""protocolVersion":"x""#,
            r#""capabilities":{}"#,
            r#""clientInfo":{"a":1}"#,
        );
        let code = |fields: &[&str]| {
            let params = raw(&format!("{{{}}}", fields.join(",")));
            initialize(Some(&params)).map_or_else(|fault| fault.code, |_| 0)
        };
        assert_eq!(code(&[version, capabilities, info, r#""_meta":{}"#]), 0);
        for missing in [&[capabilities, info], &[version, info], &[version, capabilities]] {
            assert_eq!(code(missing), code::INVALID_PARAMS, "{missing:?}");
        }
        assert_eq!(
            code(&[version, r#""capabilities":[]"#, info]),
            code::INVALID_PARAMS
        );
        for twice in [
            [version, capabilities, info, r#""protocol\u0056ersion":"y""#],
            [version, capabilities, info, info],
        ] {
            assert_eq!(code(&twice), code::INVALID_REQUEST, "{twice:?}");
        }
        let twice = r#""capabilities":{"roots":{},"r\u006fots":{}}"#;
        assert_eq!(code(&[version, twice, info]), code::INVALID_REQUEST);
    }

    #[test]
    fn initialize_params_too_large_are_not_looked_into() {
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
            let expected = Fault {
                code: code::INVALID_PARAMS,
                message: format!("params: {field:?} is larger than {most} bytes"),
            };
            assert_eq!((fault, steps), (Some(expected), 0));
        }
    }

    #[test]
    fn what_is_missing_or_no_string_is_said() {
        for text in [r#"{}"#, r#"{"uri":1}"#, r#"{"uri":null}"#] {
            let fault = uri(Some(&raw(text))).unwrap_err();
            assert_eq!(fault.code, code::INVALID_PARAMS);
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
                code::INVALID_PARAMS,
                "{text}"
            );
        }
    }

    #[test]
    fn a_cursor_may_be_absent_and_may_be_empty() {
        assert_eq!(cursor(None).unwrap(), None);
        assert_eq!(cursor(Some(&raw(r#"{"_meta":{}}"#))).unwrap(), None);
        assert_eq!(cursor(Some(&raw(r#"{"cursor":""}"#))).unwrap().unwrap(), "");
        assert_eq!(
            cursor(Some(&raw(r#"{"cursor":5}"#))).unwrap_err().code,
            code::INVALID_PARAMS
        );
    }
}
