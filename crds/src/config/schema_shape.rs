//! What the schema allows at one location of the configuration, and how an error message describes it.

use std::ops::RangeInclusive;

use serde_json::{Map, Value as Json};

/// Maximum number of characters of a text that a message repeats.
const MAX_QUOTED_CHARS: usize = 80;

/// A scalar that was found in the text.
#[derive(Clone, Copy, Debug)]
pub(super) enum ScalarValue<'a> {
    Nothing,
    Bool,
    Whole(i128),
    Number(f64),
    Text(&'a str),
}

/// The values that are allowed at one location.
#[derive(Clone, Copy, Debug)]
pub(super) struct SchemaShape<'a> {
    schema: &'a Json,
    root: &'a Json,
}

/// The fields that are allowed in one mapping.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldsShape<'a> {
    schema: &'a Json,
    root: &'a Json,
}

impl<'a> SchemaShape<'a> {
    pub(super) fn new(schema: &'a Json, root: &'a Json) -> Self {
        Self { schema, root }
    }

    /// The alternative schemas, one of which must match.
    fn choices(self) -> Vec<&'a Json> {
        let schema = definition(self.schema, self.root);
        match schema.get("anyOf").and_then(Json::as_array) {
            Some(choices) => choices
                .iter()
                .map(|choice| definition(choice, self.root))
                .collect(),
            None => vec![schema],
        }
    }

    fn choice(self, kind: &str) -> Option<&'a Json> {
        self.choices().into_iter().find(|choice| is(choice, kind))
    }

    /// Whether the scalar is allowed.
    pub(super) fn fits(self, kind: &ScalarValue<'_>) -> bool {
        self.choices().into_iter().any(|choice| match kind {
            ScalarValue::Nothing => is(choice, "null"),
            ScalarValue::Bool => is(choice, "boolean"),
            ScalarValue::Whole(value) if is(choice, "integer") => whole_range(choice).contains(value),
            ScalarValue::Whole(value) => is(choice, "number") && number_fits(choice, *value as f64),
            ScalarValue::Number(value) => is(choice, "number") && number_fits(choice, *value),
            ScalarValue::Text(text) => match names(choice) {
                Some(names) => names.contains(text),
                None => is(choice, "string"),
            },
        })
    }

    /// Whether every text is allowed.
    pub(super) fn is_any_text(self) -> bool {
        let text = self.choice("string");
        text.is_some_and(|text| names(text).is_none() && text.get("examples").is_none())
    }

    /// Whether `text` would be allowed as a number without quotes.
    pub(super) fn takes_number(self, text: &str) -> bool {
        text.parse()
            .is_ok_and(|number| self.fits(&ScalarValue::Whole(number)))
    }

    /// Whether only scalars are allowed.
    pub(super) fn is_scalar(self) -> bool {
        self.choice("object").is_none() && self.choice("array").is_none()
    }

    /// The allowed fields, if a mapping is allowed.
    pub(super) fn fields(self) -> Option<FieldsShape<'a>> {
        let schema = self.choice("object")?;
        Some(FieldsShape {
            schema,
            root: self.root,
        })
    }

    /// The allowed items, if a list is allowed.
    pub(super) fn items(self) -> Option<Self> {
        let items = self.choice("array")?.get("items")?;
        Some(Self::new(items, self.root))
    }

    /// Describes what is allowed.
    pub(super) fn expected(self) -> String {
        let choices = self.choices().into_iter();
        let words: Vec<String> = choices.filter_map(|choice| self.words(choice)).collect();
        words.join(" or ")
    }

    fn words(self, choice: &'a Json) -> Option<String> {
        if let Some(names) = names(choice) {
            return Some(join_or(names.iter().map(|name| format!("`{name}`"))));
        }
        if let Some(examples) = choice.get("examples").and_then(Json::as_array) {
            let examples = examples.iter().filter_map(Json::as_str).map(str::to_owned);
            let what = choice.get("description").and_then(Json::as_str).unwrap_or("text");
            return Some(format!("{what}, for example {}", join_or(examples)));
        }
        if is(choice, "object") {
            let shape = Self::new(choice, self.root);
            let names = shape.fields().map(FieldsShape::names).unwrap_or_default();
            return Some(match names.first() {
                Some(name) => format!("a mapping, with fields such as `{name}`"),
                None => "a mapping of names to values".to_owned(),
            });
        }
        if is(choice, "array") {
            return Some("a list (`[]` is an empty one)".to_owned());
        }
        if is(choice, "boolean") {
            return Some("`true` or `false`".to_owned());
        }
        if is(choice, "integer") {
            let range = whole_range(choice);
            return Some(format!(
                "a whole number from {} to {}",
                range.start(),
                range.end()
            ));
        }
        if is(choice, "number") {
            let bound = |name| choice.get(name).map(Json::to_string).unwrap_or_default();
            return Some(format!(
                "a number from {} to {}",
                bound("minimum"),
                bound("maximum")
            ));
        }
        is(choice, "string").then(|| "text".to_owned())
    }
}

impl<'a> FieldsShape<'a> {
    fn properties(self) -> Option<&'a Map<String, Json>> {
        self.schema.get("properties").and_then(Json::as_object)
    }

    fn names(self) -> Vec<&'a str> {
        let required: Vec<&str> = self.required().collect();
        let properties = self.properties().into_iter().flatten();
        let others = properties.map(|(name, _)| name.as_str());
        let others = others.filter(|name| !required.contains(name)).collect::<Vec<_>>();
        [required, others].concat()
    }

    /// What is allowed in the field `name`, if there may be one.
    pub(super) fn field_shape(self, name: &str) -> Option<SchemaShape<'a>> {
        let known = self.properties().and_then(|properties| properties.get(name));
        let others = || {
            self.schema
                .get("additionalProperties")
                .filter(|others| others.is_object())
        };
        known
            .or_else(others)
            .map(|schema| SchemaShape::new(schema, self.root))
    }

    /// The names of the required fields.
    pub(super) fn required(self) -> impl Iterator<Item = &'a str> {
        let required = self.schema.get("required").and_then(Json::as_array);
        required.into_iter().flatten().filter_map(Json::as_str)
    }

    /// Describes the allowed fields after the unknown field `name`, with a suggestion if `name` looks like a typing error.
    pub(super) fn allowed(self, name: &str) -> String {
        let names = self.names();
        let choices = join_or(names.iter().map(|name| format!("`{name}`")));
        let near = names.into_iter().find(|other| is_typo_of(name, other));
        let near = near.map(|near| format!("did you mean `{near}`? "));
        format!("{}allowed are {choices}", near.unwrap_or_default())
    }
}

/// Returns `text` in quotes and shortened, for a message.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
    }
}

/// Resolves the reference of `schema`, if it is one.
pub(super) fn definition<'a>(schema: &'a Json, root: &'a Json) -> &'a Json {
    let name = schema
        .get("$ref")
        .and_then(Json::as_str)
        .and_then(|path| path.rsplit('/').next());
    let found = name.and_then(|name| root.get("$defs")?.get(name));
    found.unwrap_or(schema)
}

fn is(schema: &Json, kind: &str) -> bool {
    match schema.get("type") {
        Some(Json::String(only)) => only == kind,
        Some(Json::Array(several)) => several.iter().any(|one| one == kind),
        _ => false,
    }
}

/// The allowed values of an enumeration.
fn names(schema: &Json) -> Option<Vec<&str>> {
    if let Some(names) = schema.get("enum").and_then(Json::as_array) {
        return Some(names.iter().filter_map(Json::as_str).collect());
    }
    let choices = schema.get("oneOf").and_then(Json::as_array)?;
    let names = choices.iter().filter_map(|choice| choice.get("const")?.as_str());
    Some(names.collect())
}

fn whole_range(schema: &Json) -> RangeInclusive<i128> {
    let bound = |name| schema.get(name).and_then(Json::as_u64).map(i128::from);
    let widest = match schema.get("format").and_then(Json::as_str) {
        Some("uint16") => u16::MAX.into(),
        Some("uint32") => u32::MAX.into(),
        _ => u64::MAX.into(),
    };
    bound("minimum").unwrap_or(0)..=bound("maximum").unwrap_or(widest)
}

fn number_fits(schema: &Json, value: f64) -> bool {
    let bound = |name| schema.get(name).and_then(Json::as_f64);
    value >= bound("minimum").unwrap_or(f64::MIN) && value <= bound("maximum").unwrap_or(f64::MAX)
}

/// Joins `words` as `a, b or c`.
fn join_or(words: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = words.collect();
    match words.pop() {
        None => String::new(),
        Some(last) if words.is_empty() => last,
        Some(last) => format!("{} or {last}", words.join(", ")),
    }
}

/// Whether the two words differ only in case, or by one inserted, missing, replaced or swapped letter.
fn is_typo_of(one: &str, other: &str) -> bool {
    let (one, other) = (one.to_lowercase(), other.to_lowercase());
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    while let ([a, rest_of_one @ ..], [b, rest_of_other @ ..]) = (one, other)
        && a == b
    {
        (one, other) = (rest_of_one, rest_of_other);
    }
    while let ([rest_of_one @ .., a], [rest_of_other @ .., b]) = (one, other)
        && a == b
    {
        (one, other) = (rest_of_one, rest_of_other);
    }
    match (one, other) {
        ([a, b], [c, d]) => a == d && b == c,
        (one, other) => one.len() <= 1 && other.len() <= 1,
    }
}
