//! JSON that keeps the order of the fields and rejects a field that stands twice.
//!
//! `serde_json::Value` sorts the fields and keeps only the last of two with one name, so a server would be lost without a word.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A JSON value.
#[derive(Clone, PartialEq)]
#[cfg_attr(test, derive(Debug))]
pub(super) enum OrderedJson {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as text.
    Number(String),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<OrderedJson>),
    /// An object, in the order of the text.
    Object(Vec<(String, OrderedJson)>),
}

impl OrderedJson {
    /// Parses the content of `file`.
    ///
    /// # Errors
    /// The file, the line and the column, and what is wrong there. The message contains no text of the file but the name of a field that
    /// stands twice.
    pub(super) fn parse(text: &str, file: &Path) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        serde_json::from_str(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let position = format!(" at line {line} column {column}");
            let message = error.to_string();
            let message = message.strip_suffix(&position).unwrap_or(&message);
            let advice = advice(text, line, column, message);
            format!("{}:{line}:{column}: {message}{advice}", file.display())
        })
    }

    /// What kind of value this is, for error messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// Calls `visit` with each string in this value. Names of fields are not visited.
    pub(super) fn visit_texts(&self, visit: &mut impl FnMut(&str)) {
        match self {
            Self::Text(text) => visit(text),
            Self::List(items) => items.iter().for_each(|item| item.visit_texts(visit)),
            Self::Object(fields) => fields.iter().for_each(|(_, value)| value.visit_texts(visit)),
            Self::Null | Self::Bool(_) | Self::Number(_) => {}
        }
    }
}

/// What to do about a syntax error that the JSON of editors may contain.
fn advice(text: &str, line: usize, column: usize, message: &str) -> &'static str {
    let line = line.checked_sub(1).and_then(|index| text.lines().nth(index));
    let found = line.and_then(|line| line.as_bytes().get(column.checked_sub(1)?));
    if found == Some(&b'/') {
        "; comments are not JSON: remove them, and import again"
    } else if message.starts_with("trailing comma") {
        "; remove the comma before the bracket, and import again"
    } else if message.starts_with("duplicate field") {
        ""
    } else {
        "; the file must be valid JSON"
    }
}

impl<'de> Deserialize<'de> for OrderedJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = OrderedJson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<OrderedJson, E> {
        Ok(OrderedJson::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<OrderedJson, E> {
        Ok(OrderedJson::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<OrderedJson, E> {
        Ok(OrderedJson::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<OrderedJson, E> {
        Ok(OrderedJson::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<OrderedJson, E> {
        Ok(OrderedJson::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<OrderedJson, E> {
        Ok(OrderedJson::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<OrderedJson, E> {
        Ok(OrderedJson::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OrderedJson, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(OrderedJson::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<OrderedJson, A::Error> {
        let (mut fields, mut seen) = (Vec::new(), HashSet::new());
        while let Some(name) = entries.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(Error::custom(format!(
                    "duplicate field {name:?}; keep one of them"
                )));
            }
            fields.push((name, entries.next_value()?));
        }
        Ok(OrderedJson::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        OrderedJson::parse(text, Path::new("mcp.json")).unwrap_err()
    }

    #[test]
    fn fields_keep_their_order() {
        let parsed =
            OrderedJson::parse("\u{feff}{\"b\": [1, -2.5, true], \"a\": null}", Path::new("x")).unwrap();
        let list = OrderedJson::List(vec![
            OrderedJson::Number("1".to_owned()),
            OrderedJson::Number("-2.5".to_owned()),
            OrderedJson::Bool(true),
        ]);
        let fields = [("b".to_owned(), list), ("a".to_owned(), OrderedJson::Null)];
        assert_eq!(parsed, OrderedJson::Object(fields.into()));
    }

    // The error names the line and what to do, and contains no value of the file.
    #[test]
    fn invalid_json_is_located_and_explained() {
        for (text, expected) in [
            (
                "{\n  // servers\n  \"mcpServers\": {}\n}",
                "mcp.json:2:3: key must be a string; comments are not JSON: remove them, and import again",
            ),
            (
                "{\"a\": {\"k\": \"s3cret\"}, /* b */ \"c\": 1}",
                "mcp.json:1:24: key must be a string; comments are not JSON: remove them, and import again",
            ),
            (
                "{\"a\": \"s3cret\",\n}",
                "mcp.json:2:1: trailing comma; remove the comma before the bracket, and import again",
            ),
            (
                "{\"a\": {\"k\": \"s3cret\",\n \"k\": \"s3cret\"}}",
                "mcp.json:2:4: duplicate field \"k\"; keep one of them",
            ),
            (
                "{\"a\": s3cret}",
                "mcp.json:1:7: expected value; the file must be valid JSON",
            ),
            (
                "",
                "mcp.json:1:0: EOF while parsing a value; the file must be valid JSON",
            ),
        ] {
            assert_eq!(error(text), expected, "{text}");
        }
    }
}
