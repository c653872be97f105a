//! Validates a YAML text against the JSON Schema of the configuration, with error messages for users.
//!
//! Deserialization would reject an invalid text, too, but with Rust terms in its messages, such as `u32` or the name of a struct. It would
//! also accept `null` as a text, and the last of two equal keys in a map. So the text is first compared with the schema that is generated
//! from the types. All errors of structure are found here and described in terms of YAML, and an editor with the schema reports the
//! same errors.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use crate::config::location;
use crate::config::schema_shape::{ScalarValue, SchemaShape, quoted};

/// A violation of the schema, and its location.
#[derive(Debug)]
pub(super) struct SchemaError {
    /// The path of the field.
    pub(super) path: String,
    /// The line number, from 1.
    pub(super) line: usize,
    /// What was found and what is allowed.
    pub(super) message: String,
}

/// Returns the first violation of `schema` in `text`. The definitions of `schema` are in `root`. Invalid YAML is not an error here:
/// deserialization reports it.
pub(super) fn first_error(text: &str, schema: &Json, root: &Json) -> Option<SchemaError> {
    let found = RefCell::new(None);
    let check = SchemaValidator {
        shape: SchemaShape::new(schema, root),
        path: String::new(),
        steps: Vec::new(),
        text,
        found: &found,
    };
    check.deserialize(serde_yaml::Deserializer::from_str(text)).ok();
    found.into_inner()
}

/// Deserialization seed that compares a value with its schema.
struct SchemaValidator<'a> {
    shape: SchemaShape<'a>,
    path: String,
    /// The path as indexes: at each level the index of the entry or item, from 0.
    steps: Vec<usize>,
    text: &'a str,
    found: &'a RefCell<Option<SchemaError>>,
}

impl<'a> SchemaValidator<'a> {
    fn below(&self, shape: SchemaShape<'a>, step: usize, path: String) -> Self {
        let mut steps = self.steps.clone();
        steps.push(step);
        Self {
            shape,
            path,
            steps,
            ..*self
        }
    }

    fn field(&self, shape: SchemaShape<'a>, step: usize, name: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.below(shape, step, format!("{}{dot}{name}", self.path))
    }

    /// Records the error and stops the validation.
    fn refuse<T, E: serde::de::Error>(&self, message: String) -> Result<T, E> {
        let path = if self.path.is_empty() { "." } else { &self.path };
        let schema_error = SchemaError {
            path: path.to_owned(),
            line: location::line_of_steps(self.text, &self.steps),
            message,
        };
        self.found.borrow_mut().get_or_insert(schema_error);
        Err(E::custom("refused"))
    }

    fn wrong<T, E: serde::de::Error>(&self, found: &str) -> Result<T, E> {
        self.refuse(format!("found {found}; expected {}", self.shape.expected()))
    }

    /// Validates a scalar.
    fn scalar<E: serde::de::Error>(&self, kind: ScalarValue<'_>) -> Result<(), E> {
        if self.shape.fits(&kind) {
            return Ok(());
        }
        match kind {
            ScalarValue::Nothing => self.wrong("nothing"),
            // Do not repeat a text in place of a mapping: it may be a secret that belongs in one of its fields.
            ScalarValue::Text(_) if !self.shape.is_scalar() => self.wrong("text"),
            ScalarValue::Text(text) if self.shape.takes_number(text) => {
                self.wrong(&format!("{} in quotes", quoted(text)))
            }
            ScalarValue::Text(text) => self.wrong(&quoted(text)),
            ScalarValue::Bool | ScalarValue::Whole(_) | ScalarValue::Number(_) => {
                let found = location::scalar_text(self.text, &self.steps).unwrap_or_default();
                if self.shape.is_any_text() {
                    return self.refuse(format!("found {found}; expected text; put it in quotes"));
                }
                self.wrong(&found)
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for SchemaValidator<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SchemaValidator<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shape.expected())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some(fields) = self.shape.fields() else {
            return self.wrong("a mapping");
        };
        let mut seen = BTreeSet::new();
        for step in 0.. {
            let key = match map.next_key::<String>() {
                Ok(Some(key)) => key,
                Ok(None) => break,
                Err(error) if error.to_string().contains("invalid type") => {
                    let key = self.below(self.shape, step, self.path.clone());
                    return key.refuse("invalid key; the name of a field must be text".to_owned());
                }
                // Invalid YAML from here on.
                Err(error) => return Err(error),
            };
            let Some(shape) = fields.field_shape(&key) else {
                let message = format!("unknown field `{key}`; {}", fields.allowed(&key));
                return self.field(self.shape, step, &key).refuse(message);
            };
            let field = self.field(shape, step, &key);
            if !seen.insert(key) {
                return field.refuse("duplicate key; keep one of them".to_owned());
            }
            map.next_value_seed(field)?;
        }
        match fields.required().find(|name| !seen.contains(*name)) {
            None => Ok(()),
            Some(name) => {
                let expected = fields
                    .field_shape(name)
                    .map(SchemaShape::expected)
                    .unwrap_or_default();
                self.refuse(format!("missing field `{name}`; expected {expected}"))
            }
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some(shape) = self.shape.items() else {
            return self.wrong("a list");
        };
        for step in 0.. {
            let item = self.below(shape, step, format!("{}[{step}]", self.path));
            if items.next_element_seed(item)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, value: A) -> Result<(), A::Error> {
        drop(value.variant::<IgnoredAny>());
        self.wrong("a tag (`!`)")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.scalar(ScalarValue::Nothing)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.scalar(ScalarValue::Bool)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.scalar(ScalarValue::Whole(value.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.scalar(ScalarValue::Whole(value.into()))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<(), E> {
        self.scalar(ScalarValue::Whole(value))
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<(), E> {
        self.scalar(ScalarValue::Whole(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.scalar(ScalarValue::Number(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.scalar(ScalarValue::Text(value))
    }
}
