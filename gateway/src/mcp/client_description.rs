//! Repairs what a client says about itself in `initialize`, so that every backend can read it.
//!
//! Some clients leave a field out, write `null`, `true` or an empty list instead of an object, or a number as a version. Some SDKs' servers
//! accept that, others fail the handshake. Backends get the shape that the specification requires. Valid and unknown fields stay unchanged.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// The client capabilities, all of which are objects, and their members that are objects, too.
const CAPABILITIES: [(&str, &[&str]); 6] = [
    ("roots", &[]),
    ("sampling", &["context", "tools"]),
    ("elicitation", &["form", "url"]),
    ("tasks", &["cancel", "list", "requests"]),
    ("experimental", &[]),
    ("extensions", &[]),
];
/// Capabilities of which every member is an object.
const FREE_FORM: [&str; 2] = ["experimental", "extensions"];

/// Name of a client that sends none.
const DEFAULT_NAME: &str = "unknown";
/// Version of a client that sends none.
const DEFAULT_VERSION: &str = "0";

/// Repairs `capabilities`. A missing value becomes an empty object.
pub(super) fn capabilities(sent: Option<&RawValue>) -> Cow<'_, RawValue> {
    repaired(sent, |sent| {
        let Value::Object(mut all) = sent else {
            return json!({});
        };
        for (name, members) in CAPABILITIES {
            keep_object(&mut all, name);
            let Some(Value::Object(capability)) = all.get_mut(name) else {
                continue;
            };
            members.iter().for_each(|member| keep_object(capability, member));
            if FREE_FORM.contains(&name) {
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

/// Repairs `clientInfo`: name and version become strings.
pub(super) fn info(sent: Option<&RawValue>) -> Cow<'_, RawValue> {
    repaired(sent, |sent| {
        let mut info = match sent {
            Value::Object(info) => info,
            Value::String(name) => Map::from_iter([("name".to_owned(), Value::String(name))]),
            _ => Map::new(),
        };
        for (key, default) in [("name", DEFAULT_NAME), ("version", DEFAULT_VERSION)] {
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

/// Ensures that `key` is an object or absent. `true`, and the empty list as which some languages encode an empty object, become an empty
/// object.
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

/// Applies `repair`, and keeps the client's bytes if nothing changes.
fn repaired(sent: Option<&RawValue>, repair: impl FnOnce(Value) -> Value) -> Cow<'_, RawValue> {
    let value: Value = sent
        .and_then(|sent| serde_json::from_str(sent.get()).ok())
        .unwrap_or_default();
    let valid = repair(value.clone());
    match sent {
        Some(sent) if valid == value => Cow::Borrowed(sent),
        _ => {
            let written = serde_json::value::to_raw_value(&valid);
            // A value that was parsed from JSON can be serialized.
            written.map_or_else(|_| Cow::Owned(RawValue::NULL.to_owned()), Cow::Owned)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(read: fn(Option<&RawValue>) -> Cow<'_, RawValue>, sent: &str) -> String {
        let sent = RawValue::from_string(sent.to_owned()).unwrap();
        read(Some(&sent)).get().to_owned()
    }

    #[test]
    fn valid_description_keeps_its_bytes() {
        for sent in [
            "{}",
            r#"{ "roots" : {"listChanged":true},"z":1, "a":true, "sampling":{"tools":{}} }"#,
            r#"{"experimental":{"a":{"b":1e2}},"elicitation":{"form":{},"url":{}}}"#,
        ] {
            assert_eq!(with(capabilities, sent), sent);
        }
        let sent = r#"{ "version":"1","name":"a","icons":[{"src":"b"}],"extra":[1] }"#;
        assert_eq!(with(info, sent), sent);
    }

    #[test]
    fn invalid_fields_are_removed_or_repaired() {
        for (sent, valid) in [
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
            assert_eq!(with(capabilities, sent), valid, "{sent}");
        }
        assert_eq!(capabilities(None).get(), "{}");
        let unknown = r#"{"name":"unknown","version":"0"}"#;
        for (sent, valid) in [
            ("[]", unknown),
            ("{}", unknown),
            (r#""me""#, r#"{"name":"me","version":"0"}"#),
            (r#"{"name":1,"version":2.5}"#, r#"{"name":"1","version":"2.5"}"#),
            (
                r#"{"name":"a","version":"1","title":null,"websiteUrl":7,"icons":[{"a":1}]}"#,
                r#"{"icons":[],"name":"a","version":"1"}"#,
            ),
        ] {
            assert_eq!(with(info, sent), valid, "{sent}");
        }
        assert_eq!(info(None).get(), unknown);
    }
}
