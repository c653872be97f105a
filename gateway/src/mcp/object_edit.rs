//! Fields of a JSON object, replaced or added by splicing: everything else stays as it was written.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::inspected_keys::can_be_taken_for;
use crate::runtime::step_counter;

/// The most keys that an object may have. Real ones have a few dozen.
pub const MAX_KEYS: usize = 4096;

/// Up to how many keys each is compared with all before it, which is faster for so few than to hash them. Beyond, it would take quadratic
/// time.
const MAX_COMPARED_KEYS: usize = 16;

/// A JSON object's fields, where they stand in its text.
#[derive(Debug)]
pub struct EditedObject<'a> {
    text: &'a str,
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> EditedObject<'a> {
    /// Finds the fields of the object that `text` is; `None` when it is none, has more than [`MAX_KEYS`] keys, or
    /// a key stands twice.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        Self::read(text).ok()
    }

    /// The same, with what is wrong.
    ///
    /// # Errors
    /// When it is no object, has more than [`MAX_KEYS`] keys, or a key stands twice.
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

    /// The fields, in their order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.fields.iter().map(|(key, value)| (&**key, *value))
    }

    /// A key of the object that some parser takes for `key`, if there is one.
    #[must_use]
    pub fn lookalike_of(&self, key: &str) -> Option<&str> {
        let mut keys = self.fields.iter().map(|(other, _)| &**other);
        keys.find(|other| can_be_taken_for(other, key))
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
                // Only in objects with more keys than are compared one by one.
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
            assert!(EditedObject::parse(text).is_none(), "{text}");
        }
    }

    /// An object with this many keys.
    fn object_of(keys: usize) -> String {
        let fields: Vec<_> = (0..keys).map(|number| format!(r#""k{number}":0"#)).collect();
        format!("{{{}}}", fields.join(","))
    }

    #[test]
    fn object_with_many_keys_takes_linear_time() {
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
    fn key_that_stands_twice_is_found_among_many() {
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
