//! Rewrites a message by replacing some of its bytes; all other bytes stay as the sender wrote them.

use bytes::{Bytes, BytesMut};

/// `original` with `part` replaced. `part` must be a slice of `original`, such as a borrowed field of a parsed message; otherwise `None`.
#[must_use]
pub fn splice(original: &[u8], part: &str, replacement: &[u8]) -> Option<Bytes> {
    let start = part.as_ptr().addr().checked_sub(original.as_ptr().addr())?;
    let end = start.checked_add(part.len())?;
    let (before, after) = (original.get(..start)?, original.get(end..)?);
    let length = before
        .len()
        .checked_add(replacement.len())?
        .checked_add(after.len())?;
    let mut spliced = BytesMut::with_capacity(length);
    spliced.extend_from_slice(before);
    spliced.extend_from_slice(replacement);
    spliced.extend_from_slice(after);
    Some(spliced.freeze())
}

/// `original` with each of `parts` replaced, with the requirements of [`splice`]. Overlapping parts give `None`.
#[must_use]
pub fn splice_all(original: &[u8], parts: &[(&str, &[u8])]) -> Option<Bytes> {
    let mut placed = parts
        .iter()
        .map(|(part, replacement)| {
            let start = part.as_ptr().addr().checked_sub(original.as_ptr().addr())?;
            Some((start, start.checked_add(part.len())?, *replacement))
        })
        .collect::<Option<Vec<_>>>()?;
    placed.sort_unstable_by_key(|(start, ..)| *start);
    let added: usize = placed.iter().map(|(.., replacement)| replacement.len()).sum();
    let mut spliced = BytesMut::with_capacity(original.len().checked_add(added)?);
    let mut done = 0;
    for (start, end, replacement) in placed {
        spliced.extend_from_slice(original.get(done..start)?);
        spliced.extend_from_slice(replacement);
        done = end;
    }
    spliced.extend_from_slice(original.get(done..)?);
    Some(spliced.freeze())
}

/// The member of `object` whose value is `value`, with its key and one comma, so that removing it leaves a valid object. `value` must be a
/// slice of `object`, as for [`splice`].
#[must_use]
pub fn member<'a>(object: &'a str, value: &str) -> Option<&'a str> {
    let start = value.as_ptr().addr().checked_sub(object.as_ptr().addr())?;
    let end = start.checked_add(value.len())?;
    let before = object.get(..start)?.trim_end().strip_suffix(':')?;
    // A quote inside a key is escaped, and no key that is searched for contains one.
    let key = before.trim_end().strip_suffix('"')?.rfind('"')?;
    let after = object.get(end..)?.trim_start();
    if let Some(rest) = after.strip_prefix(',') {
        return object.get(key..object.len().checked_sub(rest.len())?);
    }
    let comma = object.get(..key)?.trim_end().strip_suffix(',');
    object.get(comma.map_or(key, str::len)..end)
}

#[cfg(test)]
mod tests {
    use super::{member, splice, splice_all};

    #[test]
    fn member_includes_its_key_and_one_comma() {
        for (object, left) in [
            (r#"{"task":V}"#, "{}"),
            (r#"{"a":1,"task":V}"#, r#"{"a":1}"#),
            (r#"{ "a" : 1 , "task" : V }"#, r#"{ "a" : 1  }"#),
            (r#"{"task":V,"a":1}"#, r#"{"a":1}"#),
            (r#"{ "task" : V , "a":1}"#, r#"{  "a":1}"#),
            (r#"{"a":"\"","task":V,"b":{}}"#, r#"{"a":"\"","b":{}}"#),
            (r#"{"t\u0061sk":V,"b":{}}"#, r#"{"b":{}}"#),
        ] {
            let place = object.find('V').unwrap();
            let found = member(object, &object[place..=place]).unwrap();
            assert_eq!(object.replacen(found, "", 1), left, "{object}");
        }
        assert_eq!(member("[1]", "1"), None);
    }

    #[test]
    fn several_parts_are_replaced_in_any_order() {
        let text = "[1,22,333]";
        let parts: [(&str, &[u8]); 2] = [(&text[6..9], b"c"), (&text[1..2], b"aaaa")];
        assert_eq!(splice_all(text.as_bytes(), &parts).unwrap(), "[aaaa,22,c]");
        let overlapping: [(&str, &[u8]); 2] = [(&text[1..5], b""), (&text[3..5], b"")];
        assert!(splice_all(text.as_bytes(), &overlapping).is_none());
        assert_eq!(splice_all(text.as_bytes(), &[]).unwrap(), text);
    }

    #[test]
    fn only_the_part_is_replaced() {
        let text = r#"{"name" : "a_b", "n": 1.0}"#;
        let part = &text[10..15];
        assert_eq!(
            splice(text.as_bytes(), part, br#""b""#).unwrap(),
            r#"{"name" : "b", "n": 1.0}"#
        );
    }

    #[test]
    fn foreign_part_is_rejected() {
        let text = String::from("abc");
        let other = String::from("b");
        assert!(splice(&text.as_bytes()[..1], &other, b"x").is_none());
    }
}
