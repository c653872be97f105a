//! Repairs listed items that violate the protocol's schema.
//!
//! Clients validate a list as a whole: one tool with `"description": null` makes a strict client reject all tools of all backends. So
//! invalid optional fields are removed, and required ones get a valid value. Unknown fields stay, and so does every byte of a valid item.

use serde_json::value::RawValue;

use super::jsonrpc::string;
use crate::mcp::object_edit::EditedObject;
use crate::runtime::step_counter;

/// Maximum number of invalid paths that are reported per item.
const MAX_NAMED: usize = 8;

/// The schema of one kind of item, of revision 2025-11-25, which includes all fields of older revisions.
///
/// ```
/// use vmcp_gateway::mcp::item_schema::TOOL;
///
/// let tool = r#"{"name":"now","inputSchema":{"type":"object"},"description":null}"#;
/// let mended = TOOL.mend(tool).unwrap();
/// assert_eq!(mended.json, r#"{"name":"now","inputSchema":{"type":"object"}}"#);
/// assert_eq!(mended.places, ["description"]);
/// assert_eq!(TOOL.mend(&mended.json), None);
/// ```
#[derive(Debug)]
pub struct ItemSchema(Shape);

/// An item that violated its schema, after the repair.
#[derive(Debug, PartialEq, Eq)]
pub struct MendedItem {
    /// The valid item, as JSON.
    pub json: String,
    /// Paths of the fields that were invalid, for example `icons.0.sizes`.
    pub places: Vec<String>,
}

/// The expected shape of a value.
#[derive(Debug)]
enum Shape {
    Text,
    Flag,
    /// A number between the two bounds, inclusive.
    Number(f64, f64),
    OneOf(&'static [&'static str]),
    /// An object with these fields, and any others.
    Record(&'static [Field]),
    /// An object whose values all have this shape.
    Map(&'static Self),
    List(&'static Self),
    /// A JSON Schema of type `object`, as far as the protocol's schema specifies it. The flag says whether a missing `type` is accepted as
    /// `object`.
    ObjectSchema(bool),
    /// A schema inside a schema.
    Subschema,
}

#[derive(Debug)]
struct Field {
    key: &'static str,
    shape: Shape,
    fallback: Fallback,
}

/// What to do with a field that is missing or invalid.
#[derive(Debug)]
enum Fallback {
    /// Remove the field from the record.
    Remove,
    /// Treat the whole record as invalid.
    Invalid,
    /// Replace it by this JSON.
    Json(&'static str),
    /// Copy the value of this other field.
    CopyOf(&'static str),
}

/// Result of checking a value.
enum Fit {
    Valid,
    Mended(String),
    Invalid,
}

const fn optional(key: &'static str, shape: Shape) -> Field {
    Field {
        key,
        shape,
        fallback: Fallback::Remove,
    }
}

const fn required(key: &'static str, shape: Shape) -> Field {
    Field {
        key,
        shape,
        fallback: Fallback::Invalid,
    }
}

const META: Field = optional("_meta", Shape::Record(&[]));
const TITLE: Field = optional("title", Shape::Text);
const DESCRIPTION: Field = optional("description", Shape::Text);
const MIME_TYPE: Field = optional("mimeType", Shape::Text);
const ICONS: Field = optional("icons", Shape::List(&Shape::Record(ICON)));
const ANNOTATIONS: Field = optional("annotations", Shape::Record(ANNOTATION_FIELDS));
/// A resource without a valid name gets its URI as the name.
const fn named_as(key: &'static str) -> Field {
    Field {
        key: "name",
        shape: Shape::Text,
        fallback: Fallback::CopyOf(key),
    }
}

const ICON: &[Field] = &[
    required("src", Shape::Text),
    MIME_TYPE,
    optional("sizes", Shape::List(&Shape::Text)),
    optional("theme", Shape::OneOf(&["light", "dark"])),
];

const ANNOTATION_FIELDS: &[Field] = &[
    optional("audience", Shape::List(&Shape::OneOf(&["user", "assistant"]))),
    optional("priority", Shape::Number(0.0, 1.0)),
    optional("lastModified", Shape::Text),
];

/// Schema of the items of `tools/list`.
pub const TOOL: &ItemSchema = &ItemSchema(Shape::Record(&[
    TITLE,
    DESCRIPTION,
    Field {
        key: "inputSchema",
        shape: Shape::ObjectSchema(true),
        fallback: Fallback::Json(r#"{"type":"object"}"#),
    },
    // Clients reject results that do not match the output schema. A schema without a type may allow results that are not objects, so it
    // cannot be completed.
    optional("outputSchema", Shape::ObjectSchema(false)),
    optional(
        "annotations",
        Shape::Record(&[
            TITLE,
            optional("readOnlyHint", Shape::Flag),
            optional("destructiveHint", Shape::Flag),
            optional("idempotentHint", Shape::Flag),
            optional("openWorldHint", Shape::Flag),
        ]),
    ),
    optional(
        "execution",
        Shape::Record(&[optional(
            "taskSupport",
            Shape::OneOf(&["forbidden", "optional", "required"]),
        )]),
    ),
    ICONS,
    META,
]));

/// Schema of the items of `prompts/list`.
pub const PROMPT: &ItemSchema = &ItemSchema(Shape::Record(&[
    TITLE,
    DESCRIPTION,
    optional(
        "arguments",
        Shape::List(&Shape::Record(&[
            required("name", Shape::Text),
            TITLE,
            DESCRIPTION,
            optional("required", Shape::Flag),
        ])),
    ),
    ICONS,
    META,
]));

/// Schema of the items of `resources/list`.
pub const RESOURCE: &ItemSchema = &ItemSchema(Shape::Record(&[
    named_as("uri"),
    TITLE,
    DESCRIPTION,
    MIME_TYPE,
    optional("size", Shape::Number(f64::MIN, f64::MAX)),
    ANNOTATIONS,
    ICONS,
    META,
]));

/// Schema of the items of `resources/templates/list`.
pub const RESOURCE_TEMPLATE: &ItemSchema = &ItemSchema(Shape::Record(&[
    named_as("uriTemplate"),
    TITLE,
    DESCRIPTION,
    MIME_TYPE,
    ANNOTATIONS,
    ICONS,
    META,
]));

impl ItemSchema {
    /// The repaired item. `None` if the item is valid, or cannot be judged because it has a duplicate key.
    #[must_use]
    pub fn mend(&self, item: &str) -> Option<MendedItem> {
        let mut places = Places::default();
        match self.0.fit(item, &mut places) {
            Fit::Mended(json) => Some(MendedItem {
                json,
                places: places.named,
            }),
            Fit::Valid | Fit::Invalid => None,
        }
    }
}

/// The path of the current value inside an item, and the invalid paths so far.
#[derive(Default)]
struct Places {
    path: Vec<String>,
    named: Vec<String>,
}

impl Places {
    fn name(&mut self) {
        if self.named.len() < MAX_NAMED {
            self.named.push(self.path.join("."));
        }
    }
}

impl Shape {
    /// Checks `text`, which is valid JSON, against this shape. Each byte is read once per enclosing record or list, of which there are a
    /// handful at most.
    fn fit(&self, text: &str, places: &mut Places) -> Fit {
        match self {
            Self::Text => valid_if(is_text(text)),
            Self::Flag => valid_if(matches!(text, "true" | "false")),
            Self::Number(least, most) => {
                let number = text.parse::<f64>();
                valid_if(number.is_ok_and(|number| (*least..=*most).contains(&number)))
            }
            Self::OneOf(words) => {
                let word = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                valid_if(word.is_some_and(|word| words.contains(&word)))
            }
            Self::Record(fields) => fit_record(fields, text, places),
            Self::Map(shape) => fit_map(shape, text, places),
            Self::List(shape) => fit_list(shape, text, places),
            Self::ObjectSchema(untyped) => fit_object_schema(*untyped, text, places),
            // Boolean schemas, as the equivalent objects that the protocol allows.
            Self::Subschema => match text {
                "true" => Fit::Mended("{}".to_owned()),
                "false" => Fit::Mended(r#"{"not":{}}"#.to_owned()),
                _ => valid_if(text.starts_with('{')),
            },
        }
    }
}

fn valid_if(fits: bool) -> Fit {
    if fits { Fit::Valid } else { Fit::Invalid }
}

/// Half of a surrogate pair is not a valid string to many parsers.
fn is_text(text: &str) -> bool {
    step_counter::count(text.len());
    text.starts_with('"') && (!text.contains('\\') || serde_json::from_str::<String>(text).is_ok())
}

/// Parses `text` as an object. The error is the result for a value that is not one, or cannot be judged.
fn object(text: &str) -> Result<EditedObject<'_>, Fit> {
    if !text.starts_with('{') {
        return Err(Fit::Invalid);
    }
    EditedObject::parse(text).ok_or(Fit::Valid)
}

fn fit_record(fields: &[Field], text: &str, places: &mut Places) -> Fit {
    let record = match object(text) {
        Ok(record) => record,
        Err(fit) => return fit,
    };
    let mut changes: Vec<(&str, Option<String>)> = Vec::new();
    for field in fields {
        let value = record.get(field.key).map(RawValue::get);
        places.path.push(field.key.to_owned());
        let before = places.named.len();
        let fit = match value {
            Some(value) => field.shape.fit(value, places),
            None if matches!(field.fallback, Fallback::Remove) => Fit::Valid,
            None => Fit::Invalid,
        };
        let change = match fit {
            Fit::Valid => None,
            Fit::Mended(json) => Some(Some(json)),
            Fit::Invalid => {
                let other = match field.fallback {
                    Fallback::Remove => Some(None),
                    Fallback::Invalid => None,
                    Fallback::Json(json) => Some(Some(json.to_owned())),
                    Fallback::CopyOf(key) => record.get(key).map(|other| Some(other.get().to_owned())),
                };
                let Some(other) = other else {
                    places.path.pop();
                    return Fit::Invalid;
                };
                // Report the whole field instead of its parts.
                places.named.truncate(before);
                places.name();
                Some(other)
            }
        };
        places.path.pop();
        changes.extend(change.map(|change| (field.key, change)));
    }
    if changes.is_empty() {
        return Fit::Valid;
    }
    Fit::Mended(written(&record, &changes))
}

/// The object with these fields replaced or added; `None` removes a field.
fn written(object: &EditedObject<'_>, changes: &[(&str, Option<String>)]) -> String {
    let changed = |key: &str| changes.iter().find(|(other, _)| *other == key);
    let kept = object.fields().filter_map(|(key, value)| match changed(key) {
        None => Some((key, value.get())),
        Some((_, change)) => Some((key, change.as_deref()?)),
    });
    let added = changes.iter().filter(|(key, _)| object.get(key).is_none());
    let added = added.filter_map(|(key, change)| Some((*key, change.as_deref()?)));
    let fields: Vec<String> = kept
        .chain(added)
        .map(|(key, value)| format!("{}:{value}", serde_json::Value::from(key)))
        .collect();
    format!("{{{}}}", fields.join(","))
}

fn fit_map(shape: &Shape, text: &str, places: &mut Places) -> Fit {
    let map = match object(text) {
        Ok(map) => map,
        Err(fit) => return fit,
    };
    let mut is_valid = true;
    let mut fields = Vec::new();
    for (key, value) in map.fields() {
        places.path.push(key.chars().take(MAX_KEY_CHARACTERS).collect());
        let value = match shape.fit(value.get(), places) {
            Fit::Valid => value.get().to_owned(),
            Fit::Mended(json) => {
                is_valid = false;
                places.name();
                json
            }
            Fit::Invalid => {
                is_valid = false;
                places.name();
                places.path.pop();
                continue;
            }
        };
        places.path.pop();
        fields.push(format!("{}:{value}", serde_json::Value::from(key)));
    }
    if is_valid {
        return Fit::Valid;
    }
    Fit::Mended(format!("{{{}}}", fields.join(",")))
}

/// Maximum characters of a backend's own key in a path.
const MAX_KEY_CHARACTERS: usize = 40;

fn fit_list(shape: &Shape, text: &str, places: &mut Places) -> Fit {
    let Ok(values) = serde_json::from_str::<Vec<&RawValue>>(text) else {
        return Fit::Invalid;
    };
    let mut is_valid = true;
    let mut kept = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        step_counter::count(1);
        places.path.push(index.to_string());
        match shape.fit(value.get(), places) {
            Fit::Valid => kept.push(value.get().to_owned()),
            Fit::Mended(json) => {
                is_valid = false;
                kept.push(json);
            }
            Fit::Invalid => {
                is_valid = false;
                places.name();
            }
        }
        places.path.pop();
    }
    if is_valid {
        return Fit::Valid;
    }
    Fit::Mended(format!("[{}]", kept.join(",")))
}

const OBJECT_SCHEMA: &[Field] = &[
    optional("$schema", Shape::Text),
    Field {
        key: "type",
        shape: Shape::OneOf(&["object"]),
        fallback: Fallback::Json(r#""object""#),
    },
    optional("properties", Shape::Map(&Shape::Subschema)),
    optional("required", Shape::List(&Shape::Text)),
];

/// Rejects a schema of a type other than object, which cannot describe a tool's input or output. A schema that allows object among others,
/// or that has no type where that is accepted, gets the type `object`.
fn fit_object_schema(untyped: bool, text: &str, places: &mut Places) -> Fit {
    let schema = match object(text) {
        Ok(schema) => schema,
        Err(fit) => return fit,
    };
    let types = schema.get("type").map_or("null", RawValue::get);
    let names_object = || {
        let among = serde_json::from_str::<Vec<&RawValue>>(types);
        among.is_ok_and(|among| among.iter().any(|one| string(one).as_deref() == Some("object")))
    };
    let fits = match types {
        "null" => untyped,
        _ => types == r#""object""# || names_object(),
    };
    if !fits {
        return Fit::Invalid;
    }
    fit_record(OBJECT_SCHEMA, text, places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::step_counter::assert_linear;

    #[track_caller]
    fn mended(schema: &ItemSchema, item: &str, expected: &str, places: &[&str]) {
        let mended = schema.mend(item).unwrap();
        assert_eq!(mended.json, expected);
        assert_eq!(mended.places, places);
        assert_eq!(schema.mend(expected), None, "what is mended fits");
    }

    /// Unknown fields stay, and so does every byte of a valid item.
    #[test]
    fn item_that_fits_keeps_its_bytes() {
        for tool in [
            r#"{"name":"a","inputSchema":{"type":"object"}}"#,
            r#"{ "x":[ 1.0 ],"name":"a", "description":"\u00e9\n","inputSchema":{"type":"object","properties":{"a":{"type":["x"]}},"required":["a"],"$defs":null},
                "annotations":{"readOnlyHint":true,"dangerous":7},"execution":{"taskSupport":"optional"},"icons":[{"src":"a"}],"_meta":{"a":null} }"#,
        ] {
            assert_eq!(TOOL.mend(tool), None, "{tool}");
        }
        let resource =
            r#"{"uri":"a:b","name":"b","size":3,"annotations":{"priority":1,"audience":["user"]}}"#;
        assert_eq!(RESOURCE.mend(resource), None);
    }

    #[test]
    fn invalid_optional_field_is_removed() {
        mended(
            TOOL,
            r#"{"name":"a","description":null,"title":["x"],"inputSchema":{"type":"object"},"annotations":{"readOnlyHint":"true","x":1},"icons":null}"#,
            r#"{"name":"a","inputSchema":{"type":"object"},"annotations":{"x":1}}"#,
            &["title", "description", "annotations.readOnlyHint", "icons"],
        );
        mended(
            TOOL,
            r#"{"name":"a","description":"\ud83d","inputSchema":{"type":"object"}}"#,
            r#"{"name":"a","inputSchema":{"type":"object"}}"#,
            &["description"],
        );
        mended(
            PROMPT,
            r#"{"name":"a","arguments":[{"name":"x","required":null},{"name":1},{"name":"y"}]}"#,
            r#"{"name":"a","arguments":[{"name":"x"},{"name":"y"}]}"#,
            &["arguments.0.required", "arguments.1"],
        );
        mended(
            RESOURCE,
            r#"{"uri":"a:b","name":"b","size":"3","annotations":{"priority":7,"audience":["robot","user"]}}"#,
            r#"{"uri":"a:b","name":"b","annotations":{"audience":["user"]}}"#,
            &["size", "annotations.audience.0", "annotations.priority"],
        );
    }

    #[test]
    fn invalid_required_field_is_repaired() {
        for (schema, expected) in [
            ("null", r#"{"type":"object"}"#),
            ("true", r#"{"type":"object"}"#),
            (r#""{}""#, r#"{"type":"object"}"#),
            (r#"{"type":"array","items":{}}"#, r#"{"type":"object"}"#),
            ("{}", r#"{"type":"object"}"#),
            (
                r#"{"type":["null","object"],"x":1}"#,
                r#"{"type":"object","x":1}"#,
            ),
            (
                r#"{"properties":{"a":true,"b":false,"c":{}},"required":null}"#,
                r#"{"properties":{"a":{},"b":{"not":{}},"c":{}},"type":"object"}"#,
            ),
        ] {
            let tool = |schema: &str| format!(r#"{{"name":"a","inputSchema":{schema}}}"#);
            let mended = TOOL.mend(&tool(schema)).unwrap();
            assert_eq!(mended.json, tool(expected), "{schema}");
            assert!(mended.places[0].starts_with("inputSchema"), "{mended:?}");
        }
        mended(
            TOOL,
            r#"{"name":"a","inputSchema":{"type":"object"},"outputSchema":{}}"#,
            r#"{"name":"a","inputSchema":{"type":"object"}}"#,
            &["outputSchema"],
        );
        mended(
            TOOL,
            r#"{"name":"a"}"#,
            r#"{"name":"a","inputSchema":{"type":"object"}}"#,
            &["inputSchema"],
        );
        mended(
            RESOURCE,
            r#"{"uri":"a:b"}"#,
            r#"{"uri":"a:b","name":"a:b"}"#,
            &["name"],
        );
        mended(
            RESOURCE_TEMPLATE,
            r#"{"name":null,"uriTemplate":"a:{b}"}"#,
            r#"{"name":"a:{b}","uriTemplate":"a:{b}"}"#,
            &["name"],
        );
    }

    #[test]
    fn item_with_duplicate_key_is_not_changed() {
        let tool = r#"{"name":"a","x":1,"x":2,"description":null}"#;
        assert_eq!(TOOL.mend(tool), None);
    }

    #[test]
    fn mending_takes_linear_time() {
        let tool = |size: usize| {
            let icons = vec![r#"{"src":"x","sizes":null}"#; size].join(",");
            let properties: Vec<_> = (0..size).map(|number| format!(r#""p{number}":true"#)).collect();
            let properties = properties.join(",");
            format!(
                r#"{{"name":"a","description":"{}","icons":[{icons}],"inputSchema":{{"properties":{{{properties}}}}}}}"#,
                "\\n".repeat(size)
            )
        };
        assert_linear(32, tool, |tool| {
            let mended = TOOL.mend(&tool).unwrap();
            assert_eq!(mended.places.len(), MAX_NAMED);
        });
    }
}
