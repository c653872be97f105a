//! The parameters that say what a request is about, read without touching the rest. A key that is read here and stands twice is
//! refused: the gateway and a backend must not read two names.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::code;
use super::jsonrpc::{Fault, string};

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
    }
    text(read::<Named<'_>>(params)?.name, "name")
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
    }
    text(read::<Located<'_>>(params)?.uri, "uri")
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
    }
    match read::<Paged<'_>>(params)?.cursor {
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
    let reference = read::<Completed<'_>>(params)?.r#ref;
    let object = reference.filter(|reference| reference.get().starts_with('{'));
    let reference: Ref<'_> = read(Some(object.ok_or_else(|| unfit("ref", "an object"))?))?;
    match &*text(reference.r#type, "ref.type")?.1 {
        "ref/prompt" => text(reference.name, "ref.name").map(Reference::Prompt),
        "ref/resource" => text(reference.uri, "ref.uri").map(Reference::Resource),
        _ => Err(unfit("ref.type", "ref/prompt or ref/resource")),
    }
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
