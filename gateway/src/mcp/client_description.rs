//! What a client says of itself in `initialize`, as every backend can read it.
//!
//! Some clients leave a part out, write `null`, `true` or an empty list for an object, or a number for a version. Some SDKs' servers take that,
//! and others refuse the handshake. Backends get it as the specification wants it. What is right, and what is not known here, stays as it is.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// Members of the capabilities, all of which are objects, and those within that are objects, too.
const CAPABILITIES: [(&str, &[&str]); 6] = [
    ("roots", &[]),
    ("sampling", &["context", "tools"]),
    ("elicitation", &["form", "url"]),
    ("tasks", &["cancel", "list", "requests"]),
    ("experimental", &[]),
    ("extensions", &[]),
];
/// Members of the capabilities of which each member is an object.
const OPEN: [&str; 2] = ["experimental", "extensions"];

/// A client without a name.
const UNKNOWN: &str = "unknown";
/// A client without a version.
const NO_VERSION: &str = "0";

/// The capabilities. Whoever says nothing of them has none.
pub(super) fn capabilities(said: Option<&RawValue>) -> Cow<'_, RawValue> {
    repaired(said, |said| {
        let Value::Object(mut all) = said else {
            return json!({});
        };
        for (name, members) in CAPABILITIES {
            keep_object(&mut all, name);
            let Some(Value::Object(capability)) = all.get_mut(name) else {
                continue;
            };
            members.iter().for_each(|member| keep_object(capability, member));
            if OPEN.contains(&name) {
                let names: Vec<_> = capability.keys().cloned().collect();
                names.iter().for_each(|member| keep_object(capability, member));
            }
            if capability
                .get("listChanged")
                .is_some_and(|value| !value.is_boolean())
            {
                capability.remove("listChanged");
            }
        }
        Value::Object(all)
    })
}

/// The name and the version.
pub(super) fn info(said: Option<&RawValue>) -> Cow<'_, RawValue> {
    repaired(said, |said| {
        let mut info = match said {
            Value::Object(info) => info,
            Value::String(name) => Map::from_iter([("name".to_owned(), Value::String(name))]),
            _ => Map::new(),
        };
        for (key, default) in [("name", UNKNOWN), ("version", NO_VERSION)] {
            let text = match info.get(key) {
                Some(Value::String(_)) => continue,
                Some(Value::Number(number)) => number.to_string(),
                _ => default.to_owned(),
            };
            info.insert(key.to_owned(), Value::String(text));
        }
        for key in ["title", "description", "websiteUrl"] {
            if info.get(key).is_some_and(|value| !value.is_string()) {
                info.remove(key);
            }
        }
        match info.get_mut("icons") {
            Some(Value::Array(icons)) => {
                icons.retain(|icon| icon.get("src").is_some_and(Value::is_string));
            }
            Some(_) => {
                info.remove("icons");
            }
            None => {}
        }
        Value::Object(info)
    })
}

/// Leaves at `key` an object or nothing. `true` and an empty list, which some languages write for an empty object, are one.
fn keep_object(of: &mut Map<String, Value>, key: &str) {
    match of.get(key) {
        None | Some(Value::Object(_)) => {}
        Some(Value::Bool(true)) => {
            of.insert(key.to_owned(), json!({}));
        }
        Some(Value::Array(list)) if list.is_empty() => {
            of.insert(key.to_owned(), json!({}));
        }
        Some(_) => {
            of.remove(key);
        }
    }
}

/// The bytes that the client wrote where `repair` changes nothing.
fn repaired(said: Option<&RawValue>, repair: impl FnOnce(Value) -> Value) -> Cow<'_, RawValue> {
    let value: Value = said
        .and_then(|said| serde_json::from_str(said.get()).ok())
        .unwrap_or_default();
    let right = repair(value.clone());
    match said {
        Some(said) if right == value => Cow::Borrowed(said),
        _ => {
            let written = serde_json::value::to_raw_value(&right);
            // What was read as JSON can be written as JSON.
            written.map_or_else(|_| Cow::Owned(RawValue::NULL.to_owned()), Cow::Owned)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(read: fn(Option<&RawValue>) -> Cow<'_, RawValue>, said: &str) -> String {
        let said = RawValue::from_string(said.to_owned()).unwrap();
        read(Some(&said)).get().to_owned()
    }

    #[test]
    fn what_is_right_stays_as_it_is_written() {
        for said in [
            "{}",
            r#"{ "roots" : {"listChanged":true},"z":1, "a":true, "sampling":{"tools":{}} }"#,
            r#"{"experimental":{"a":{"b":1e2}},"elicitation":{"form":{},"url":{}}}"#,
        ] {
            assert_eq!(with(capabilities, said), said);
        }
        let said = r#"{ "version":"1","name":"a","icons":[{"src":"b"}],"extra":[1] }"#;
        assert_eq!(with(info, said), said);
    }

    #[test]
    fn what_is_none_is_left_out_or_put_right() {
        for (said, right) in [
            ("[]", "{}"),
            ("true", "{}"),
            (r#"{"roots":true}"#, r#"{"roots":{}}"#),
            (r#"{"roots":[]}"#, r#"{"roots":{}}"#),
            (r#"{"roots":{"listChanged":"yes"}}"#, r#"{"roots":{}}"#),
            (r#"{"sampling":null,"x":null}"#, r#"{"x":null}"#),
            (
                r#"{"elicitation":{"form":null,"url":true}}"#,
                r#"{"elicitation":{"url":{}}}"#,
            ),
            (
                r#"{"experimental":{"a":true,"b":null}}"#,
                r#"{"experimental":{"a":{}}}"#,
            ),
        ] {
            assert_eq!(with(capabilities, said), right, "{said}");
        }
        assert_eq!(capabilities(None).get(), "{}");
        let nobody = r#"{"name":"unknown","version":"0"}"#;
        for (said, right) in [
            ("[]", nobody),
            ("{}", nobody),
            (r#""me""#, r#"{"name":"me","version":"0"}"#),
            (r#"{"name":1,"version":2.5}"#, r#"{"name":"1","version":"2.5"}"#),
            (
                r#"{"name":"a","version":"1","title":null,"websiteUrl":7,"icons":[{"a":1}]}"#,
                r#"{"icons":[],"name":"a","version":"1"}"#,
            ),
        ] {
            assert_eq!(with(info, said), right, "{said}");
        }
        assert_eq!(info(None).get(), nobody);
    }
}
