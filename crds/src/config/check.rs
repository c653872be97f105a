//! Whether a text has the shape of a configuration.
//!
//! The types that a text is read into would refuse it too, but in the words of the program: `u32`, a struct's name, a unit value. They would
//! also take the word `null` where text is wanted, and the last of two equal keys in a map. So the text is followed along the schema that is
//! made from those types, before it is read into them: every mistake of shape is found here and told in the words of YAML, and an editor that
//! knows the schema tells the same ones.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use super::expected::{Kind, Shape, quoted};
use super::line;

/// What is wrong with a text, and where.
#[derive(Debug)]
pub(super) struct Flaw {
    /// The path of the field.
    pub(super) path: String,
    /// The line, counted from 1.
    pub(super) line: usize,
    /// What was found and what is allowed.
    pub(super) message: String,
}

/// The first thing in `text` that does not have the shape of `schema`, whose definitions are in `root`. A text that is no YAML has no shape, and
/// no flaw here.
pub(super) fn flaw(text: &str, schema: &Json, root: &Json) -> Option<Flaw> {
    let found = RefCell::new(None);
    let check = Check {
        shape: Shape::new(schema, root),
        path: String::new(),
        steps: Vec::new(),
        text,
        found: &found,
    };
    check.deserialize(serde_yaml::Deserializer::from_str(text)).ok();
    found.into_inner()
}

/// Follows a value along its shape.
struct Check<'a> {
    shape: Shape<'a>,
    path: String,
    /// At each level above, which entry or item it is, counted from 0.
    steps: Vec<usize>,
    text: &'a str,
    found: &'a RefCell<Option<Flaw>>,
}

impl<'a> Check<'a> {
    fn below(&self, shape: Shape<'a>, step: usize, path: String) -> Self {
        let mut steps = self.steps.clone();
        steps.push(step);
        Self {
            shape,
            path,
            steps,
            ..*self
        }
    }

    fn field(&self, shape: Shape<'a>, step: usize, name: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.below(shape, step, format!("{}{dot}{name}", self.path))
    }

    /// Ends the check: nothing more is looked at.
    fn refuse<T, E: serde::de::Error>(&self, message: String) -> Result<T, E> {
        let path = if self.path.is_empty() { "." } else { &self.path };
        let flaw = Flaw {
            path: path.to_owned(),
            line: line::at(self.text, &self.steps),
            message,
        };
        self.found.borrow_mut().get_or_insert(flaw);
        Err(E::custom("refused"))
    }

    fn wrong<T, E: serde::de::Error>(&self, found: &str) -> Result<T, E> {
        self.refuse(format!("found {found}; expected {}", self.shape.expected()))
    }

    /// A value in which there are no others, as it is written and without quotes.
    fn scalar<E: serde::de::Error>(&self, kind: Kind<'_>) -> Result<(), E> {
        if self.shape.fits(&kind) {
            return Ok(());
        }
        match kind {
            Kind::Nothing => self.wrong("nothing"),
            // A text where something is wanted that holds fields may be a secret that should stand in one of them.
            Kind::Text(_) if !self.shape.is_scalar() => self.wrong("text"),
            Kind::Text(text) if self.shape.takes_number(text) => {
                self.wrong(&format!("{} in quotes", quoted(text)))
            }
            Kind::Text(text) => self.wrong(&quoted(text)),
            Kind::Bool | Kind::Whole(_) | Kind::Number(_) => {
                let found = line::scalar_at(self.text, &self.steps).unwrap_or_default();
                if self.shape.is_any_text() {
                    return self.refuse(format!("found {found}; expected text; put it in quotes"));
                }
                self.wrong(&found)
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Check<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Check<'_> {
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
                    return key.refuse("the name of a field is text".to_owned());
                }
                // From here on it is no YAML.
                Err(error) => return Err(error),
            };
            let Some(shape) = fields.named(&key) else {
                let message = format!("unknown field `{key}`; {}", fields.allowed(&key));
                return self.field(self.shape, step, &key).refuse(message);
            };
            let field = self.field(shape, step, &key);
            if !seen.insert(key) {
                return field.refuse("stands twice; keep one of them".to_owned());
            }
            map.next_value_seed(field)?;
        }
        match fields.required().find(|name| !seen.contains(*name)) {
            None => Ok(()),
            Some(name) => {
                let expected = fields.named(name).map(Shape::expected).unwrap_or_default();
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
        self.scalar(Kind::Nothing)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.scalar(Kind::Bool)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.scalar(Kind::Whole(value.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.scalar(Kind::Whole(value.into()))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<(), E> {
        self.scalar(Kind::Whole(value))
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<(), E> {
        self.scalar(Kind::Whole(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.scalar(Kind::Number(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.scalar(Kind::Text(value))
    }
}
