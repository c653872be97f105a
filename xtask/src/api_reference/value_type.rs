//! The type of a field, with its limits, in words.

use serde_json::Value as Json;

use super::rules::DURATION;

/// The largest integer of a type in the code. As a limit it tells a reader nothing.
const TYPE_BOUNDS: [f64; 1] = [u32::MAX as f64];

/// The type of a field with its limits. `link` is the anchor of the table of the object that the field contains.
pub(super) fn of(schema: &Json, link: Option<&str>) -> String {
    if schema["type"] == "array" {
        let items = match link {
            Some(link) => format!("[objects](#{link})"),
            None => of(&schema["items"], None),
        };
        let limit = limits(&schema["minItems"], &schema["maxItems"], " items");
        return format!("list of {items}{limit}");
    }
    let values = &schema["additionalProperties"];
    if values.is_object() {
        let values = match link {
            Some(link) => format!("[objects](#{link})"),
            None => of(values, None),
        };
        let limit = limits(&schema["minProperties"], &schema["maxProperties"], " entries");
        return format!("map of {values}{limit}");
    }
    if let Some(link) = link {
        return format!("[object](#{link})");
    }
    scalar(schema)
}

fn scalar(schema: &Json) -> String {
    if schema["x-kubernetes-int-or-string"] == true {
        return "integer or string".to_owned();
    }
    if let Some(values) = schema["enum"].as_array() {
        let names = values
            .iter()
            .filter_map(Json::as_str)
            .map(|value| format!("`{value}`"));
        return names.collect::<Vec<_>>().join(", ");
    }
    let rules = schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten();
    let mut messages = rules.filter_map(|rule| rule["message"].as_str());
    if messages.any(|message| message.starts_with(DURATION)) {
        return "duration".to_owned();
    }
    let name = schema["type"].as_str().unwrap_or("any value");
    let limit = match name {
        "string" => limits(&schema["minLength"], &schema["maxLength"], " characters"),
        "integer" | "number" => limits(&schema["minimum"], &schema["maximum"], ""),
        _ => String::new(),
    };
    format!("{name}{limit}")
}

/// `, 1 to 5 characters`, `, at least 1`, `, at most 5`, or nothing.
fn limits(minimum: &Json, maximum: &Json, unit: &str) -> String {
    let minimum = minimum.as_f64().filter(|minimum| *minimum != 0.0);
    let maximum = maximum.as_f64().filter(|maximum| !TYPE_BOUNDS.contains(maximum));
    match (minimum, maximum) {
        (None, None) => String::new(),
        (None, Some(most)) => format!(", at most {most}{unit}"),
        (Some(least), None) => format!(", at least {least}{unit}"),
        (Some(least), Some(most)) => format!(", {least} to {most}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::of;

    #[test]
    fn types_are_named_with_their_limits() {
        for (schema, expected) in [
            (
                json!({"type": "string", "maxLength": 5}),
                "string, at most 5 characters",
            ),
            (json!({"type": "integer", "minimum": 1.0}), "integer, at least 1"),
            (
                json!({"type": "integer", "minimum": 0.0, "maximum": 4_294_967_295.0}),
                "integer",
            ),
            (
                json!({"type": "number", "minimum": 0.0, "maximum": 1.0}),
                "number, at most 1",
            ),
            (json!({"type": "boolean"}), "boolean"),
            (
                json!({"type": "array", "maxItems": 2, "items": {"type": "string", "enum": ["a", "b"]}}),
                "list of `a`, `b`, at most 2 items",
            ),
            (
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
                "object",
            ),
        ] {
            assert_eq!(of(&schema, None), expected);
        }
    }
}
