//! The few fields of parameters that the gateway maps between its two sides. Everything else in them is passed on unread.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::jsonrpc::{Fault, string};
use super::params::{check_meta, read};
use super::{code, meta};

/// `params._meta.progressToken`: the name under which the sender of a request wants to hear of its progress.
///
/// # Errors
/// When a key on the way to it can be read in two ways, so that two readers could find two tokens.
pub fn progress_token(params: Option<&RawValue>) -> Result<Option<&RawValue>, Fault> {
    let [meta] = read(params, &["_meta"])?;
    match meta.filter(|meta| meta.get().starts_with('{')) {
        Some(meta) => read(Some(meta), &meta::KEYS).map(|[token, ..]| token),
        None => Ok(None),
    }
}

/// `params.requestId` of `notifications/cancelled`: the request that its sender gives up.
///
/// # Errors
/// When it is missing, or the parameters can be read in two ways.
pub fn cancelled_id(params: Option<&RawValue>) -> Result<&RawValue, Fault> {
    let [id, _] = read_present(params, &["requestId", "_meta"])?;
    id.ok_or_else(|| missing("requestId"))
}

/// `params.progressToken` of `notifications/progress`: which request goes on.
///
/// # Errors
/// When it is missing, or the parameters can be read in two ways.
pub fn reported_token(params: Option<&RawValue>) -> Result<&RawValue, Fault> {
    let [token, _] = read_present(params, &["progressToken", "_meta"])?;
    token.ok_or_else(|| missing("progressToken"))
}

/// `params.uri` of `notifications/resources/updated`: the resource that has changed.
///
/// # Errors
/// When it is missing or no string, or the parameters can be read in two ways.
pub fn updated_uri(params: Option<&RawValue>) -> Result<Cow<'_, str>, Fault> {
    let [uri, _] = read_present(params, &["uri", "_meta"])?;
    uri.and_then(string).ok_or_else(|| missing("uri"))
}

/// `params.level` of `logging/setLevel`.
///
/// # Errors
/// When it is missing or no string, or the parameters can be read in two ways.
pub fn level(params: Option<&RawValue>) -> Result<Cow<'_, str>, Fault> {
    let [level, meta] = read_present(params, &["level", "_meta"])?;
    check_meta(meta)?;
    level.and_then(string).ok_or_else(|| Fault {
        code: code::INVALID_PARAMS,
        message: r#"params: "level" must be a string"#.to_owned(),
    })
}

fn read_present<'a, const N: usize>(
    params: Option<&'a RawValue>,
    keys: &[&'static str; N],
) -> Result<[Option<&'a RawValue>; N], Fault> {
    let params = params.ok_or_else(|| Fault {
        code: code::INVALID_PARAMS,
        message: r#""params" is missing"#.to_owned(),
    })?;
    read(Some(params), keys)
}

fn missing(name: &str) -> Fault {
    Fault {
        code: code::INVALID_PARAMS,
        message: format!("params: {name:?} is missing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn fields_are_found_as_their_sender_wrote_them() {
        let params = raw(r#"{"x":1,"_meta":{"progressToken": 7 ,"y":{}}}"#);
        assert_eq!(progress_token(Some(&params)).unwrap().unwrap().get(), "7");
        assert!(progress_token(Some(&raw(r#"{"_meta":{}}"#))).unwrap().is_none());
        assert!(progress_token(None).unwrap().is_none());
        let params = raw(r#"{"requestId":"a\/b","reason":"x"}"#);
        assert_eq!(cancelled_id(Some(&params)).unwrap().get(), r#""a\/b""#);
        let params = raw(r#"{"progressToken":"t","progress":1}"#);
        assert_eq!(reported_token(Some(&params)).unwrap().get(), r#""t""#);
        assert_eq!(level(Some(&raw(r#"{"level":"\u0069nfo"}"#))).unwrap(), "info");
    }

    #[test]
    fn a_field_that_is_missing_or_stands_twice_is_refused() {
        assert_eq!(cancelled_id(None).unwrap_err().code, code::INVALID_PARAMS);
        assert_eq!(
            reported_token(Some(&raw("{}"))).unwrap_err().code,
            code::INVALID_PARAMS
        );
        let twice = raw(r#"{"requestId":1,"request\u0049d":2}"#);
        assert_eq!(
            cancelled_id(Some(&twice)).unwrap_err().code,
            code::INVALID_REQUEST
        );
        let twice = raw(r#"{"_meta":{"progressToken":1,"progressToken":2}}"#);
        assert_eq!(
            progress_token(Some(&twice)).unwrap_err().code,
            code::INVALID_REQUEST
        );
        assert_eq!(
            level(Some(&raw(r#"{"level":5}"#))).unwrap_err().code,
            code::INVALID_PARAMS
        );
    }
}
