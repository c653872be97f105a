//! Reads the keys of a JSON object on which the gateway bases decisions, and rejects ambiguous objects.
//!
//! Parsers disagree about `{"name":"a","Name":"b"}`. Most match keys exactly, and take the first or the last of two equal ones. Go's
//! `encoding/json` ignores case with Unicode folding; its second version can also ignore `_` and `-`; C parsers end a key at NUL. A filter
//! that checks one of the names would let the other one pass (CVE-2026-27896). So an object is rejected if an inspected key occurs twice,
//! or if some parser may read another key as it.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::runtime::step_counter;
use crate::runtime::truncate::head;

/// Maximum bytes of a key in an error message.
const SHOWN_BYTES: usize = 64;

/// The values of `keys` in the object `text`. One pass without copies.
///
/// # Errors
/// If `text` is not a JSON object, one of `keys` occurs twice in it, or another key resembles one of them.
pub(super) fn read<'a, const N: usize>(
    text: &'a str,
    keys: &[&'static str; N],
) -> Result<[Option<&'a RawValue>; N], serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let values = deserializer.deserialize_map(Object(keys))?;
    deserializer.end()?;
    Ok(values)
}

/// Rejects a `key` that is not `inspected` but that some parser reads as it.
///
/// # Errors
/// If `key` is such a key; the message names both.
pub(super) fn check<E: serde::de::Error>(key: &str, inspected: &str) -> Result<(), E> {
    if can_be_taken_for(key, inspected) {
        let shown = head(key, SHOWN_BYTES);
        return Err(E::custom(format_args!(
            "the key {shown:?} can be taken for {inspected:?}; write each key once, exactly as the specification does"
        )));
    }
    Ok(())
}

/// Whether `key` differs from `inspected`, which is ASCII, but some parser reads it as the same key.
pub(super) fn can_be_taken_for(key: &str, inspected: &str) -> bool {
    // Some SDKs write `meta`, the name of their own field, instead of `_meta`. No decision depends on it.
    if key == inspected || key == "meta" {
        return false;
    }
    let mut rest = inspected.bytes().filter(|byte| !matches!(byte, b'_' | b'-'));
    let mut next_is = |byte: u8| rest.next().is_some_and(|own| own.eq_ignore_ascii_case(&byte));
    for character in key.chars() {
        step_counter::count(1);
        let same = match character {
            '\0' => break,
            '_' | '-' => continue,
            // Characters whose case mapping or folding yields ASCII (CaseFolding.txt; dotless and dotted i in Turkish and in Java).
            'ſ' => next_is(b's'),
            '\u{212a}' => next_is(b'k'),
            'ı' | 'İ' => next_is(b'i'),
            'ß' | 'ẞ' => next_is(b's') && next_is(b's'),
            'ﬅ' | 'ﬆ' => next_is(b's') && next_is(b't'),
            'ﬀ' => next_is(b'f') && next_is(b'f'),
            'ﬁ' => next_is(b'f') && next_is(b'i'),
            'ﬂ' => next_is(b'f') && next_is(b'l'),
            'ﬃ' => next_is(b'f') && next_is(b'f') && next_is(b'i'),
            'ﬄ' => next_is(b'f') && next_is(b'f') && next_is(b'l'),
            other => u8::try_from(other).is_ok_and(&mut next_is),
        };
        if !same {
            return false;
        }
    }
    rest.next().is_none()
}

struct Object<'k, const N: usize>(&'k [&'static str; N]);

impl<'de, const N: usize> Visitor<'de> for Object<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [None; N];
        while let Some(found) = map.next_key_seed(Key(self.0))? {
            step_counter::count(1);
            let Some((value, key)) = found.and_then(|at| values.get_mut(at).zip(self.0.get(at))) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if value.replace(map.next_value()?).is_some() {
                return Err(A::Error::duplicate_field(key));
            }
        }
        Ok(values)
    }
}

/// Deserializes one key to its index among the inspected ones, if it is one.
struct Key<'k>(&'k [&'static str]);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        let found = self.0.iter().position(|inspected| *inspected == key);
        if found.is_none() {
            self.0.iter().try_for_each(|inspected| check(key, inspected))?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::runtime::step_counter::assert_linear;

    const KEYS: [&str; 5] = ["method", "name", "params", "_meta", "progressToken"];

    #[test]
    fn reading_is_linear_for_any_keys() {
        let of = |field: &str, many: usize| format!("{{{}\"name\":1}}", field.repeat(many));
        for field in [r#""x":{},"#, r#""____":[],"#, r#""nam":1,"#, r#""method-":"{","#] {
            assert_linear(200, |many| of(field, many), |text| drop(read(&text, &KEYS)));
        }
        assert_linear(
            200,
            |many| of(&format!("\"{}name\":1,", "_".repeat(many)), 1),
            |text| {
                assert!(read(&text, &KEYS).is_err());
            },
        );
    }

    fn fault(text: &str) -> Option<String> {
        read(text, &KEYS).err().map(|error| error.to_string())
    }

    #[test]
    fn keys_are_read_in_any_order() {
        let [method, name, params, meta, token] =
            read(r#"{"x":{"name":1}, "n\u0061me" : "a" ,"params":null}"#, &KEYS).unwrap();
        assert_eq!(name.map(RawValue::get), Some(r#""a""#));
        assert_eq!(params.map(RawValue::get), Some("null"));
        assert!(method.is_none() && meta.is_none() && token.is_none());
    }

    #[test]
    fn duplicate_key_is_refused() {
        for text in [
            r#"{"name":1,"name":1}"#,
            r#"{"name":null,"n\u0061me":1}"#,
            r#"{"_meta":{},"\u005fmeta":{}}"#,
        ] {
            assert!(fault(text).unwrap().contains("duplicate field"), "{text}");
        }
    }

    #[test]
    fn lookalike_key_is_refused() {
        for key in [
            "Name",
            "NAME",
            r"\u004eame",
            "n_ame",
            "name-",
            "_name",
            r"name\u0000",
            r"name\u0000x",
            "Method",
            "PARAMS",
            "paramſ",
            r"param\u017f",
            "_Meta",
            "META",
            "Meta",
            "progress_token",
            "PROGRESSTOKEN",
            "progreßToken",
            "progreſſToken",
            "progressTo\u{212a}en",
            r"progressTo\u212aen",
        ] {
            for text in [
                format!(r#"{{"{key}":1}}"#),
                format!(r#"{{"name":1,"{key}":1}}"#),
                format!(r#"{{"{key}":1,"name":1}}"#),
            ] {
                let fault = fault(&text).unwrap_or_default();
                assert!(fault.contains("can be taken for"), "{text}: {fault}");
            }
        }
    }

    #[test]
    fn unrelated_keys_are_accepted() {
        let text = r#"{"meta":1,"names":1,"nam":1,"":1,"_":1,"ｎame":1,"nàme":1,"x":1,"X":1,"x":2,"nome":1}"#;
        assert_eq!(fault(text), None);
    }

    #[test]
    fn non_object_is_refused() {
        for text in [
            "",
            "[]",
            r#"["a"]"#,
            "1",
            "{",
            "{}{}",
            r#"{"name":}"#,
            r#"{"\ud800":1}"#,
        ] {
            assert!(fault(text).is_some(), "{text}");
        }
    }

    #[test]
    fn long_key_is_truncated_in_the_error() {
        let fault = fault(&format!(r#"{{"name{}":1}}"#, "_".repeat(100_000))).unwrap();
        assert!(fault.len() < 300, "{}", fault.len());
    }

    proptest! {
        #[test]
        fn every_case_folding_of_a_key_is_refused(at in 0..KEYS.len(), upper in any::<u64>()) {
            let key: String = KEYS[at].chars().enumerate().map(|(place, letter)| match letter {
                letter if upper >> place & 1 == 0 => letter,
                's' => 'ſ',
                'k' => '\u{212a}',
                letter => letter.to_ascii_uppercase(),
            }).collect();
            let changed = key != KEYS[at];
            prop_assert_eq!(can_be_taken_for(&key, KEYS[at]), changed, "{}", key);
            // Everything that case mapping or folding turns into the key.
            prop_assert_eq!(key.to_lowercase().replace('ſ', "s"), KEYS[at].to_lowercase());
        }
    }

    #[test]
    fn all_characters_that_fold_to_ascii_are_known() {
        for character in '\0'..=char::MAX {
            for form in [
                character.to_lowercase().to_string(),
                character.to_uppercase().to_string(),
            ] {
                if form.is_ascii() && !character.is_ascii() {
                    assert!(can_be_taken_for(&character.to_string(), &form), "{character:?}");
                }
            }
        }
    }
}
