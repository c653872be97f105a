//! The fields of params by which the gateway correlates messages of its two sides. It forwards all other fields unread.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::jsonrpc::{InvalidMessage, string};
use super::meta;
use super::params::{check_meta, read};
use crate::mcp::error_code;

/// Maximum number of elicitations in one error.
const MAX_ELICITATIONS: usize = 100;

/// `params._meta.progressToken`: the token with which the sender of a request wants progress notifications.
///
/// # Errors
/// If a key on the path is ambiguous, so that two parsers could find two tokens.
pub fn progress_token(params: Option<&RawValue>) -> Result<Option<&RawValue>, InvalidMessage> {
    let [meta] = read(params, &["_meta"])?;
    match meta.filter(|meta| meta.get().starts_with('{')) {
        Some(meta) => read(Some(meta), &meta::KEYS).map(|[token, ..]| token),
        None => Ok(None),
    }
}

/// `params.requestId` of `notifications/cancelled`: the id of the request that its sender cancels.
///
/// # Errors
/// If it is missing, or the params are ambiguous.
pub fn cancelled_id(params: Option<&RawValue>) -> Result<&RawValue, InvalidMessage> {
    let [id, _] = read_present(params, &["requestId", "_meta"])?;
    id.ok_or_else(|| missing("requestId"))
}

/// `params.progressToken` of `notifications/progress`: the token of the request that makes progress.
///
/// # Errors
/// If it is missing, or the params are ambiguous.
pub fn reported_token(params: Option<&RawValue>) -> Result<&RawValue, InvalidMessage> {
    let [token, _] = read_present(params, &["progressToken", "_meta"])?;
    token.ok_or_else(|| missing("progressToken"))
}

/// `params.elicitationId` of `elicitation/create` in URL mode.
///
/// # Errors
/// If the params are ambiguous.
pub fn elicitation_id(params: Option<&RawValue>) -> Result<Option<&RawValue>, InvalidMessage> {
    read(params, &["elicitationId"]).map(|[id]| id)
}

/// The elicitation ids in a `URLElicitationRequiredError` (specification 2025-11-25, client/elicitation). Empty for any other error, and
/// for an error with more than 100 elicitations.
#[must_use]
pub fn required_elicitations(error: &RawValue) -> Vec<&RawValue> {
    let elicitations = || {
        let [code, data] = read(Some(error), &["code", "data"]).ok()?;
        let number: i32 = code?.get().parse().ok()?;
        let [elicitations] = read(Some(data?), &["elicitations"]).ok()?;
        let all: Vec<&RawValue> = serde_json::from_str(elicitations?.get()).ok()?;
        (number == error_code::URL_ELICITATION_REQUIRED && all.len() <= MAX_ELICITATIONS).then_some(all)
    };
    let all = elicitations().unwrap_or_default();
    all.into_iter()
        .filter_map(|one| elicitation_id(Some(one)).ok().flatten())
        .collect()
}

/// `params.uri` of `notifications/resources/updated`: the resource that changed.
///
/// # Errors
/// If it is missing or not a string, or the params are ambiguous.
pub fn updated_uri(params: Option<&RawValue>) -> Result<Cow<'_, str>, InvalidMessage> {
    let [uri, _] = read_present(params, &["uri", "_meta"])?;
    uri.and_then(string).ok_or_else(|| missing("uri"))
}

/// `params.level` of `logging/setLevel`.
///
/// # Errors
/// If it is missing or not a string, or the params are ambiguous.
pub fn level(params: Option<&RawValue>) -> Result<Cow<'_, str>, InvalidMessage> {
    let [level, meta] = read_present(params, &["level", "_meta"])?;
    check_meta(meta)?;
    level.and_then(string).ok_or_else(|| InvalidMessage {
        code: error_code::INVALID_PARAMS,
        message: r#"params: "level" must be a string"#.to_owned(),
    })
}

fn read_present<'a, const N: usize>(
    params: Option<&'a RawValue>,
    keys: &[&'static str; N],
) -> Result<[Option<&'a RawValue>; N], InvalidMessage> {
    let params = params.ok_or_else(|| InvalidMessage {
        code: error_code::INVALID_PARAMS,
        message: r#""params" is missing"#.to_owned(),
    })?;
    read(Some(params), keys)
}

fn missing(name: &str) -> InvalidMessage {
    InvalidMessage {
        code: error_code::INVALID_PARAMS,
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
    fn correlation_fields_keep_the_senders_spelling() {
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
    fn ids_of_required_elicitations_are_found() {
        let ids = |text: &str| {
            let error = raw(text);
            let ids = required_elicitations(&error);
            ids.into_iter().map(|id| id.get().to_owned()).collect::<Vec<_>>()
        };
        let error = |code: i32| {
            format!(
                r#"{{"code":{code},"message":"","data":{{"elicitations":[{{"elicitationId":"a","url":"u"}},{{"url":"u"}},{{"elicitationId":"b"}}]}}}}"#
            )
        };
        assert_eq!(ids(&error(-32042)), [r#""a""#, r#""b""#]);
        assert!(ids(&error(-32602)).is_empty());
        for none in [r#"{"code":-32042}"#, r#"{"code":-32042,"data":7}"#, "7"] {
            assert!(ids(none).is_empty(), "{none}");
        }
        let many = vec![r#"{"elicitationId":"a"}"#; MAX_ELICITATIONS + 1].join(",");
        assert!(
            ids(&format!(
                r#"{{"code":-32042,"data":{{"elicitations":[{many}]}}}}"#
            ))
            .is_empty()
        );
    }

    #[test]
    fn missing_or_duplicate_field_is_refused() {
        assert_eq!(cancelled_id(None).unwrap_err().code, error_code::INVALID_PARAMS);
        assert_eq!(
            reported_token(Some(&raw("{}"))).unwrap_err().code,
            error_code::INVALID_PARAMS
        );
        let twice = raw(r#"{"requestId":1,"request\u0049d":2}"#);
        assert_eq!(
            cancelled_id(Some(&twice)).unwrap_err().code,
            error_code::INVALID_REQUEST
        );
        let twice = raw(r#"{"_meta":{"progressToken":1,"progressToken":2}}"#);
        assert_eq!(
            progress_token(Some(&twice)).unwrap_err().code,
            error_code::INVALID_REQUEST
        );
        assert_eq!(
            level(Some(&raw(r#"{"level":5}"#))).unwrap_err().code,
            error_code::INVALID_PARAMS
        );
    }
}
