//! Fields of a JSON object, replaced or added by splicing: everything else stays as it was written.

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A JSON object's fields, where they stand in its text.
#[derive(Debug)]
pub struct Object<'a> {
    text: &'a str,
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// Finds the fields of the object that `text` is; `None` when it is none, or a key stands twice.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        Self::read(text).ok()
    }

    /// The same, with what is wrong.
    ///
    /// # Errors
    /// When it is no object, or a key stands twice.
    pub fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        let Fields(fields) = serde_json::from_str(text)?;
        Ok(Self { text, fields })
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.fields
            .iter()
            .find(|(other, _)| other == key)
            .map(|(_, value)| *value)
    }

    /// The object's text with these fields, each a key and its value as JSON: in the place of the one that is there, or at the end.
    #[must_use]
    pub fn with(&self, changes: &[(&str, &str)]) -> Option<Bytes> {
        let mut replaced: Vec<(usize, usize, &str)> = Vec::with_capacity(changes.len());
        let mut added: Vec<(&str, &str)> = Vec::new();
        for (key, value) in changes {
            match self.get(key) {
                Some(old) => {
                    let start = old.get().as_ptr().addr().checked_sub(self.text.as_ptr().addr())?;
                    replaced.push((start, start + old.get().len(), value));
                }
                None => added.push((key, value)),
            }
        }
        replaced.sort_unstable();
        let mut spliced = BytesMut::with_capacity(self.text.len() + 64);
        let mut at = 0;
        for (start, end, value) in replaced {
            spliced.put_slice(self.text.get(at..start)?.as_bytes());
            spliced.put_slice(value.as_bytes());
            at = end;
        }
        let close = self.text.rfind('}')?;
        spliced.put_slice(self.text.get(at..close)?.as_bytes());
        for (index, (key, value)) in added.into_iter().enumerate() {
            if index > 0 || !self.fields.is_empty() {
                spliced.put_u8(b',');
            }
            spliced.put_slice(serde_json::to_string(key).ok()?.as_bytes());
            spliced.put_u8(b':');
            spliced.put_slice(value.as_bytes());
        }
        spliced.put_slice(self.text.get(close..)?.as_bytes());
        Some(spliced.freeze())
    }
}

struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A key, borrowed where it holds no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;
        impl<'de> Visitor<'de> for Reading {
            type Value = Fields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    if fields.iter().any(|(other, _)| *other == key) {
                        return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
                    }
                    fields.push((key, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Reading)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Object;

    fn with(text: &str, changes: &[(&str, &str)]) -> String {
        let changed = Object::parse(text).unwrap().with(changes).unwrap();
        String::from_utf8(changed.to_vec()).unwrap()
    }

    #[test]
    fn a_field_is_replaced_where_it_stands_and_added_at_the_end() {
        let text = r#"{ "n": 1.00, "name" : "a" ,"x":{} }"#;
        assert_eq!(
            with(text, &[("title", r#""T""#), ("name", r#""b""#)]),
            r#"{ "n": 1.00, "name" : "b" ,"x":{} ,"title":"T"}"#
        );
        assert_eq!(with("{ }", &[("a", "1"), ("b", "2")]), r#"{ "a":1,"b":2}"#);
        assert_eq!(with(r#"{"n\u0061me":1}"#, &[("name", "2")]), r#"{"n\u0061me":2}"#);
    }

    #[test]
    fn what_is_no_object_or_has_a_key_twice_is_refused() {
        for text in ["[]", "1", "", "{", r#"{"a":1,"\u0061":2}"#, "{} {}"] {
            assert!(Object::parse(text).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn only_the_named_fields_change(
            fields in proptest::collection::btree_map("[a-d\\PC]{0,3}", any::<i32>(), 0..6),
            key in "[a-d]",
            value in any::<i32>(),
        ) {
            let text = serde_json::to_string_pretty(&fields).unwrap();
            let changed = with(&text, &[(&key, &value.to_string())]);
            let read: std::collections::BTreeMap<String, i32> = serde_json::from_str(&changed).unwrap();
            let mut expected = fields;
            expected.insert(key, value);
            prop_assert_eq!(read, expected);
        }
    }
}
