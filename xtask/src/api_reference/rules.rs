//! The rules (CEL) of a schema, by their messages.

use serde_json::Value as Json;

use super::text::plain;

/// How the message of the rule begins that every field with a duration has. The type's name says it.
pub(super) const DURATION: &str = "expected a duration with units";

/// The rules of a field in one line. Empty if it has none.
pub(super) fn of_field(schema: &Json) -> String {
    let mut messages: Vec<String> = Vec::new();
    for schema in [schema, &schema["items"], &schema["additionalProperties"]] {
        // The rules of an object stand with its table.
        if schema["properties"].is_object() {
            continue;
        }
        for rule in rules(schema) {
            let message = message(rule);
            if !message.starts_with(DURATION) && !messages.contains(&message) {
                messages.push(message);
            }
        }
    }
    match messages.as_slice() {
        [] => String::new(),
        [one] => format!(" *Rule:* {one}."),
        several => format!(" *Rules:* {}.", several.join("; ")),
    }
}

/// The rules of an object as a list. A message that several fields share is listed once.
pub(super) fn of_object(schema: &Json) -> String {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for rule in rules(schema) {
        let message = message(rule);
        let field = rule["fieldPath"]
            .as_str()
            .map(|path| format!("`{}`", path.trim_start_matches('.')));
        let group = match groups.iter().position(|(known, _)| *known == message) {
            Some(index) => &mut groups[index],
            None => {
                groups.push((message, Vec::new()));
                let last = groups.len() - 1;
                &mut groups[last]
            }
        };
        if let Some(field) = field.filter(|field| !group.1.contains(field)) {
            group.1.push(field);
        }
    }
    let line = |(message, fields): (String, Vec<String>)| {
        if fields.is_empty() {
            format!("- {message}\n")
        } else {
            format!("- {}: {message}\n", fields.join(", "))
        }
    };
    groups.into_iter().map(line).collect()
}

fn rules(schema: &Json) -> impl Iterator<Item = &Json> {
    schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
}

fn message(rule: &Json) -> String {
    plain(rule["message"].as_str().unwrap_or_default())
}
