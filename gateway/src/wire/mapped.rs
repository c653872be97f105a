//! The few fields of parameters that the gateway maps between its two sides. Everything else in them is passed on unread.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::code;
use super::jsonrpc::{Fault, string};
use super::params::check_meta;

/// `params._meta.progressToken`: the name under which the sender of a request wants to hear of its progress.
///
/// # Errors
/// When a key on the way to it stands twice, so that two readers could find two tokens.
pub fn progress_token(params: Option<&RawValue>) -> Result<Option<&RawValue>, Fault> {
    #[derive(Deserialize)]
    struct WithMeta<'a> {
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, default, rename = "progressToken")]
        progress_token: Option<&'a RawValue>,
    }
    let Some(params) = params else { return Ok(None) };
    let WithMeta { meta } = read(params)?;
    let Some(meta) = meta else { return Ok(None) };
    let Meta { progress_token } = read(meta)?;
    Ok(progress_token)
}

/// `params.requestId` of `notifications/cancelled`: the request that its sender gives up.
///
/// # Errors
/// When it is missing or stands twice.
pub fn cancelled_id(params: Option<&RawValue>) -> Result<&RawValue, Fault> {
    #[derive(Deserialize)]
    struct Cancelled<'a> {
        #[serde(borrow, default, rename = "requestId")]
        request_id: Option<&'a RawValue>,
    }
    let read: Cancelled<'_> = read_present(params)?;
    read.request_id.ok_or_else(|| missing("requestId"))
}

/// `params.progressToken` of `notifications/progress`: which request goes on.
///
/// # Errors
/// When it is missing or stands twice.
pub fn reported_token(params: Option<&RawValue>) -> Result<&RawValue, Fault> {
    #[derive(Deserialize)]
    struct Progress<'a> {
        #[serde(borrow, default, rename = "progressToken")]
        progress_token: Option<&'a RawValue>,
    }
    let read: Progress<'_> = read_present(params)?;
    read.progress_token.ok_or_else(|| missing("progressToken"))
}

/// `params.level` of `logging/setLevel`.
///
/// # Errors
/// When it is missing, no string, or stands twice.
pub fn level(params: Option<&RawValue>) -> Result<Cow<'_, str>, Fault> {
    #[derive(Deserialize)]
    struct SetLevel<'a> {
        #[serde(borrow, default)]
        level: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    let read: SetLevel<'_> = read_present(params)?;
    check_meta(read.meta)?;
    read.level.and_then(string).ok_or_else(|| Fault {
        code: code::INVALID_PARAMS,
        message: r#"params: "level" must be a string"#.to_owned(),
    })
}

fn read_present<'a, T: Deserialize<'a>>(params: Option<&'a RawValue>) -> Result<T, Fault> {
    let params = params.ok_or_else(|| Fault {
        code: code::INVALID_PARAMS,
        message: r#""params" is missing"#.to_owned(),
    })?;
    read(params)
}

fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, Fault> {
    serde_json::from_str(raw.get()).map_err(|error| Fault {
        code: code::INVALID_REQUEST,
        message: format!("params: {error}"),
    })
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
