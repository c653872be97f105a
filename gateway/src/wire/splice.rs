//! Rewriting a message by replacing a part of its bytes: everything else stays as the sender wrote it.

use bytes::{Bytes, BytesMut};

/// `original` with `part` replaced. `part` must be a slice of `original`, such as a borrowed field of a parsed message; if it
/// is not, nothing is replaced and the result is `None`.
#[must_use]
pub fn splice(original: &[u8], part: &str, replacement: &[u8]) -> Option<Bytes> {
    let start = part.as_ptr().addr().checked_sub(original.as_ptr().addr())?;
    let end = start.checked_add(part.len())?;
    let (before, after) = (original.get(..start)?, original.get(end..)?);
    let mut spliced = BytesMut::with_capacity(before.len() + replacement.len() + after.len());
    spliced.extend_from_slice(before);
    spliced.extend_from_slice(replacement);
    spliced.extend_from_slice(after);
    Some(spliced.freeze())
}

#[cfg(test)]
mod tests {
    use super::splice;

    #[test]
    fn only_the_part_changes() {
        let text = r#"{"name" : "a_b", "n": 1.0}"#;
        let part = &text[10..15];
        assert_eq!(
            splice(text.as_bytes(), part, br#""b""#).unwrap(),
            r#"{"name" : "b", "n": 1.0}"#
        );
    }

    #[test]
    fn a_part_of_something_else_changes_nothing() {
        let text = String::from("abc");
        let other = String::from("b");
        assert!(splice(&text.as_bytes()[..1], &other, b"x").is_none());
    }
}
