//! One table for each level of an object.

use serde_json::Value as Json;

use super::text::{anchor, plain, split_default};
use super::{rules, value_type};

/// The tables of a kind, in the order of the page. Each object is before the objects that it contains.
#[derive(Default)]
pub(super) struct Sections {
    text: String,
    /// The fields of each object that has a table, and the anchor of the table.
    known: Vec<(Json, String)>,
}

impl Sections {
    /// The tables as Markdown.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Adds the table of the object at `path`, and those of the objects in it.
    pub(super) fn add(&mut self, path: &str, schema: &Json) {
        // Users write no status, so nothing is required of them there.
        let is_written = !path.contains(".status");
        let required: Vec<&str> = schema["required"]
            .as_array()
            .filter(|_| is_written)
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .collect();
        let fields = schema["properties"].as_object().into_iter().flatten();
        // Tables of nested objects that no earlier table describes.
        let mut nested: Vec<(String, &Json)> = Vec::new();
        let mut rows = String::new();
        for (name, field) in fields {
            let link = object_in(field).map(|object| {
                let field_path = format!("{path}.{name}");
                self.link(object).unwrap_or_else(|| {
                    self.known.push((shape(object), anchor(&field_path)));
                    nested.push((field_path.clone(), object));
                    anchor(&field_path)
                })
            });
            rows.push_str(&row(
                name,
                field,
                required.contains(&name.as_str()),
                link.as_deref(),
            ));
        }
        let description = plain(schema["description"].as_str().unwrap_or_default());
        self.text.push_str(&format!("\n### {path}\n\n"));
        if !description.is_empty() {
            self.text.push_str(&format!("{description}\n\n"));
        }
        self.text
            .push_str("| field | type | default | meaning |\n| --- | --- | --- | --- |\n");
        self.text.push_str(&rows);
        let rules = rules::of_object(schema);
        if !rules.is_empty() {
            self.text.push_str(&format!("\nRules:\n\n{rules}"));
        }
        for (path, object) in nested {
            self.add(&path, object);
        }
    }

    /// The anchor of the table of an object with the same fields.
    fn link(&self, object: &Json) -> Option<String> {
        let shape = shape(object);
        let mut known = self.known.iter();
        known
            .find(|(known, _)| *known == shape)
            .map(|(_, anchor)| anchor.clone())
    }
}

/// What makes two objects equal for a reader: their fields and rules, whatever each of them is for.
fn shape(schema: &Json) -> Json {
    let mut shape = schema.clone();
    if let Some(keys) = shape.as_object_mut() {
        for key in ["description", "nullable"] {
            keys.remove(key);
        }
    }
    shape
}

/// The object that a field is, or of which it is a list or a map.
fn object_in(field: &Json) -> Option<&Json> {
    [field, &field["items"], &field["additionalProperties"]]
        .into_iter()
        .find(|schema| schema["properties"].is_object())
}

fn row(name: &str, field: &Json, is_required: bool, link: Option<&str>) -> String {
    let description = field["description"].as_str().unwrap_or_default();
    let (meaning, default) = split_default(description);
    let default = match default {
        Some(value) => format!("`{value}`"),
        None if is_required => "required".to_owned(),
        None => String::new(),
    };
    let conditions = match name {
        "conditions" => " [What each one means](kubernetes.md#conditions).",
        _ => "",
    };
    format!(
        "| `{name}` | {} | {default} | {}{}{conditions} |\n",
        value_type::of(field, link),
        plain(&meaning),
        rules::of_field(field),
    )
}
