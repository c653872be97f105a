//! Replaces or adds fields of a JSON object by splicing; all other bytes stay unchanged.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::inspected_keys::can_be_taken_for;
use crate::runtime::step_counter;

/// Maximum number of keys of an object. Real objects have a few dozen.
pub const MAX_KEYS: usize = 4096;

/// Up to this number of keys, each is compared with all previous ones, which is faster than hashing. With more keys it would be quadratic.
const MAX_COMPARED_KEYS: usize = 16;

/// A JSON object with the positions of its fields.
///
/// ```
/// use vmcp_gateway::mcp::object_edit::EditedObject;
///
/// let tool = EditedObject::parse(r#"{"name":"now","x": 1.0}"#).unwrap();
/// let renamed = tool.with(&[("name", r#""time_now""#)]).unwrap();
/// assert_eq!(renamed, r#"{"name":"time_now","x": 1.0}"#);
/// ```
#[derive(Debug)]
pub struct EditedObject<'a> {
    text: &'a str,
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> EditedObject<'a> {
    /// As [`Self::read`], without the reason for a failure.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        Self::read(text).ok()
    }

    /// Parses an object.
    ///
    /// # Errors
    /// If `text` is not an object, has more than [`MAX_KEYS`] keys, or has a duplicate key.
    pub fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        let Fields(fields) = serde_json::from_str(text)?;
        Ok(Self { text, fields })
    }

    /// The raw value of `key`, if the object has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.fields
            .iter()
            .find(|(other, _)| other == key)
            .map(|(_, value)| *value)
    }

    /// Keys and raw values, in source order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.fields.iter().map(|(key, value)| (&**key, *value))
    }

    /// A key of the object that differs from `key` but that some parser reads as it.
    #[must_use]
    pub fn lookalike_of(&self, key: &str) -> Option<&str> {
        let mut keys = self.fields.iter().map(|(other, _)| &**other);
        keys.find(|other| can_be_taken_for(other, key))
    }

    /// The object's text with the given keys set to the given JSON values, replaced in place or appended. `None` never happens for an
    /// object that [`Self::read`] returned.
    #[must_use]
    pub fn with(&self, changes: &[(&str, &str)]) -> Option<Bytes> {
        let mut replaced: Vec<(usize, usize, &str)> = Vec::with_capacity(changes.len());
        let mut added: Vec<(&str, &str)> = Vec::new();
        for (key, value) in changes {
            match self.get(key) {
                Some(old) => {
                    let start = old.get().as_ptr().addr().checked_sub(self.text.as_ptr().addr())?;
                    replaced.push((start, start.checked_add(old.get().len())?, value));
                }
                None => added.push((key, value)),
            }
        }
        replaced.sort_unstable();
        let mut spliced = BytesMut::with_capacity(self.text.len().saturating_add(64));
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

/// A key, borrowed if it has no escapes.
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
                // Used only with more than [`MAX_COMPARED_KEYS`] keys.
                let mut index: HashSet<Cow<'de, str>> = HashSet::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    if fields.len() == MAX_KEYS {
                        return Err(A::Error::custom(format_args!("more than {MAX_KEYS} keys")));
                    }
                    if fields.len() == MAX_COMPARED_KEYS {
                        index.extend(fields.iter().map(|(key, _)| key.clone()));
                    }
                    let is_new = if fields.len() < MAX_COMPARED_KEYS {
                        step_counter::count(fields.len());
                        fields.iter().all(|(other, _)| *other != key)
                    } else {
                        step_counter::count(1);
                        index.insert(key.clone())
                    };
                    if !is_new {
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

    use super::*;
    use crate::runtime::step_counter::{assert_linear, counted};

    fn with(text: &str, changes: &[(&str, &str)]) -> String {
        let changed = EditedObject::parse(text).unwrap().with(changes).unwrap();
        String::from_utf8(changed.to_vec()).unwrap()
    }

    #[test]
    fn field_is_replaced_in_place_or_appended() {
        let text = r#"{ "n": 1.00, "name" : "a" ,"x":{} }"#;
        assert_eq!(
            with(text, &[("title", r#""T""#), ("name", r#""b""#)]),
            r#"{ "n": 1.00, "name" : "b" ,"x":{} ,"title":"T"}"#
        );
        assert_eq!(with("{ }", &[("a", "1"), ("b", "2")]), r#"{ "a":1,"b":2}"#);
        assert_eq!(with(r#"{"n\u0061me":1}"#, &[("name", "2")]), r#"{"n\u0061me":2}"#);
    }

    #[test]
    fn non_object_or_duplicate_key_is_refused() {
        for text in ["[]", "1", "", "{", r#"{"a":1,"\u0061":2}"#, "{} {}"] {
            assert!(EditedObject::parse(text).is_none(), "{text}");
        }
    }

    /// An object with this many keys.
    fn object_of(keys: usize) -> String {
        let fields: Vec<_> = (0..keys).map(|number| format!(r#""k{number}":0"#)).collect();
        format!("{{{}}}", fields.join(","))
    }

    #[test]
    fn parsing_many_keys_is_linear() {
        // The largest size is 4,000 keys.
        assert_linear(125, object_of, |text| {
            assert!(EditedObject::parse(&text).is_some(), "{}", text.len());
        });
    }

    #[test]
    fn object_with_too_many_keys_is_refused_before_its_end() {
        assert!(EditedObject::parse(&object_of(MAX_KEYS)).is_some());
        let refused = |keys: usize| {
            let refused = EditedObject::read(&object_of(keys)).unwrap_err().to_string();
            assert!(refused.starts_with("more than 4096 keys"), "{refused}");
        };
        let steps = counted(|| refused(MAX_KEYS + 1));
        assert_eq!(counted(|| refused(60_000)), steps);
    }

    #[test]
    fn duplicate_key_is_found_among_many() {
        for keys in [
            MAX_COMPARED_KEYS - 1,
            MAX_COMPARED_KEYS,
            MAX_COMPARED_KEYS + 1,
            1000,
        ] {
            let text = object_of(keys);
            for twice in [r#"k0"#, r#"\u006b0"#, &format!("k{}", keys - 1)] {
                let text = text.replace('}', &format!(r#","{twice}":1}}"#));
                let refused = EditedObject::read(&text).unwrap_err().to_string();
                assert!(
                    refused.starts_with("duplicate field `k"),
                    "{keys} {twice}: {refused}"
                );
            }
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
