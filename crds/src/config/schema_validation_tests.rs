//! Property test of schema validation: every invalid value at every location is rejected in terms of YAML, with its line and path.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::{ConfigError, GatewayConfig, HotConfig, schema};
use crate::config::schema_shape::definition;

/// Rust terms that must not appear in messages for users.
const RUST_TERMS: [&str; 28] = [
    "u8",
    "u16",
    "u32",
    "u64",
    "u128",
    "i8",
    "i16",
    "i32",
    "i64",
    "i128",
    "f32",
    "f64",
    "usize",
    "struct",
    "unit",
    "newtype",
    "enum",
    "variant",
    "untagged",
    "Some",
    "None",
    "Option",
    "serde",
    "deserial",
    "deserialize",
    "sequence",
    "map",
    "integer",
];

/// Values for every location: the YAML text, the schema type, and how a message repeats the value.
const VALUES: [(&str, &str, &str); 14] = [
    ("~", "null", "nothing"),
    ("null", "null", "nothing"),
    ("true", "boolean", "true"),
    ("5", "integer", "5"),
    ("-1", "negative", "-1"),
    ("1.5", "number", "1.5"),
    ("1e400", "string", "\"1e400\""),
    (".nan", "number", ".nan"),
    ("99999999999999999999999999999999999999999", "number", "9999"),
    ("18446744073709551616", "large", "18446744073709551616"),
    ("'a b'", "string", "\"a b\""),
    ("[]", "array", "a list"),
    ("[[x]]", "array", "a list"),
    ("{'a b': {}}", "object", "a mapping"),
];

/// A location in a configuration: its path, and a text with a mark in place of the value.
struct Location<'a> {
    path: String,
    text: Json,
    shape: &'a Json,
}

const MARK: &str = "HERE";

/// Every location in the schema, with the required fields beside it.
fn locations(root: &Json) -> Vec<Location<'_>> {
    let mut places = Vec::new();
    below(root, root, "", &|value| value, &mut places);
    places
}

fn below<'a>(
    shape: &'a Json,
    root: &'a Json,
    path: &str,
    around: &dyn Fn(Json) -> Json,
    places: &mut Vec<Location<'a>>,
) {
    places.push(Location {
        path: path.to_owned(),
        text: around(json!(MARK)),
        shape,
    });
    let dot = if path.is_empty() { "" } else { "." };
    for choice in choices(shape, root) {
        for (name, property) in choice
            .get("properties")
            .and_then(Json::as_object)
            .into_iter()
            .flatten()
        {
            let inside = |value: Json| {
                let mut fields = required(choice, root);
                fields.insert(name.clone(), value);
                around(Json::Object(fields))
            };
            below(property, root, &format!("{path}{dot}{name}"), &inside, places);
        }
        if let Some(values) = choice
            .get("additionalProperties")
            .filter(|values| values.is_object())
        {
            let inside = |value: Json| around(json!({"x-name": value}));
            below(values, root, &format!("{path}{dot}x-name"), &inside, places);
        }
        if let Some(items) = choice.get("items") {
            let inside = |value: Json| around(json!([value]));
            below(items, root, &format!("{path}[0]"), &inside, places);
        }
    }
}

fn choices<'a>(shape: &'a Json, root: &'a Json) -> Vec<&'a Json> {
    let shape = definition(shape, root);
    match shape.get("anyOf").and_then(Json::as_array) {
        Some(choices) => choices.iter().map(|choice| definition(choice, root)).collect(),
        None => vec![shape],
    }
}

/// The required fields, with valid values.
fn required(choice: &Json, root: &Json) -> Map<String, Json> {
    let names = choice
        .get("required")
        .and_then(Json::as_array)
        .into_iter()
        .flatten();
    let names = names.filter_map(Json::as_str);
    let field = |name: &str| {
        let shape = &choice["properties"][name];
        let value = match choices(shape, root)[0] {
            shape if shape.get("oneOf").is_some() => shape["oneOf"][0]["const"].clone(),
            shape if shape["type"] == "array" => json!([]),
            _ => json!("x"),
        };
        (name.to_owned(), value)
    };
    names.map(field).collect()
}

/// Whether the types, names and bounds of the schema reject `value`.
fn is_refused_by_schema(shape: &Json, root: &Json, (text, kind, _): (&str, &str, &str)) -> bool {
    !choices(shape, root).into_iter().any(|choice| {
        let types = match &choice["type"] {
            Json::Array(types) => types.clone(),
            only => vec![only.clone()],
        };
        let has = |name: &str| types.iter().any(|one| one == name);
        if choice.get("oneOf").is_some() {
            return false;
        }
        let bound = |name: &str, otherwise: f64| choice[name].as_f64().unwrap_or(otherwise);
        let number: f64 = text.parse().unwrap_or(f64::NAN);
        let in_bounds = (bound("minimum", 0.0)..=bound("maximum", 1e15)).contains(&number);
        match kind {
            "integer" | "negative" | "large" => (has("integer") || has("number")) && in_bounds,
            "number" => has("number") && in_bounds,
            // Rules beyond the types have separate tests.
            other => has(other),
        }
    })
}

fn is_scalar(shape: &Json, root: &Json) -> bool {
    let others = |choice: &&Json| choice["type"] == "object" || choice["type"] == "array";
    !choices(shape, root).iter().any(others)
}

fn refusal(text: &str, is_hot: bool) -> Option<ConfigError> {
    let file = Path::new("gateway.yaml");
    if is_hot {
        return HotConfig::parse(text, file).err();
    }
    GatewayConfig::parse(text, file).err()
}

// A value of the wrong type is rejected at every location, with line, path and a message in terms of YAML.
#[test]
fn wrong_type_is_rejected_everywhere_with_location() {
    let root = schema::of_file();
    for (shape, is_hot) in [(root, false), (schema::of_hot_part(), true)] {
        let mut places = locations(root);
        if is_hot {
            places.clear();
            below(shape, root, "", &|value| value, &mut places);
        }
        assert!(places.len() >= 100, "{}", places.len());
        for Location { path, text, shape } in places {
            let text = format!("# The first line.\n{}", serde_yaml::to_string(&text).unwrap());
            let line = text.lines().position(|line| line.contains(MARK)).unwrap() + 1;
            for value in VALUES {
                let text = text.replace(MARK, value.0);
                let Some(error) = refusal(&text, is_hot) else {
                    assert!(!is_refused_by_schema(shape, root, value), "{path} takes\n{text}");
                    continue;
                };
                let report = error.to_string();
                let ConfigError::Invalid {
                    line: at,
                    path: place,
                    message,
                    ..
                } = error
                else {
                    panic!("{report}")
                };
                let words = message.split(|letter: char| !letter.is_alphanumeric());
                let terms: Vec<&str> = words.filter(|word| RUST_TERMS.contains(word)).collect();
                assert!(terms.is_empty(), "{terms:?} in {report}\nof\n{text}");
                if is_refused_by_schema(shape, root, value) {
                    let path = if path.is_empty() { "." } else { &path };
                    assert_eq!(place, path, "{report}\nof\n{text}");
                    assert_eq!(at, line, "{report}\nof\n{text}");
                    let found = match value.1 {
                        // The text may be a secret that belongs in a field.
                        "string" if !is_scalar(shape, root) => "found text",
                        _ => value.2,
                    };
                    assert!(message.contains(found), "{found} is not in {report}\nof\n{text}");
                    let allowed = message
                        .split_once("; expected ")
                        .map(|(_, allowed)| allowed.len());
                    assert!(
                        allowed > Some(3),
                        "what is allowed is not in {report}\nof\n{text}"
                    );
                }
            }
        }
    }
}
