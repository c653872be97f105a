//! Pagination cursors of the merged lists.
//!
//! A cursor holds the last name of the previous page instead of an offset. So it stays valid when the list changes, and any replica can
//! continue, even one that started in the meantime.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::backend::ListKind;

/// The text is not a cursor of this kind of list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one that this list gave; ask for the list without a cursor")]
pub struct InvalidCursor;

/// Encodes the cursor of the page of `kind` that begins after the name `last`.
pub(super) fn encode(kind: ListKind, last: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{}{last}", tag(kind)))
}

/// Decodes a cursor to the name after which the page begins. The empty cursor means the first page.
pub(super) fn decode(kind: ListKind, cursor: &str) -> Result<Option<String>, InvalidCursor> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| InvalidCursor)?;
    let text = String::from_utf8(bytes).map_err(|_| InvalidCursor)?;
    let last = text.strip_prefix(tag(kind)).ok_or(InvalidCursor)?;
    Ok(Some(last.to_owned()))
}

/// Prefix that names the kind and the format version, so that a cursor of one list is refused by the others.
fn tag(kind: ListKind) -> &'static str {
    match kind {
        ListKind::Tools => "t1:",
        ListKind::Prompts => "p1:",
        ListKind::Resources => "r1:",
        ListKind::Templates => "u1:",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_cursor_is_refused() {
        let tools = encode(ListKind::Tools, "a_b");
        assert_eq!(decode(ListKind::Tools, &tools).unwrap().unwrap(), "a_b");
        for (kind, text) in [
            (ListKind::Prompts, tools.as_str()),
            (ListKind::Tools, "a_b"),
            (ListKind::Tools, "5"),
            (ListKind::Tools, "!!"),
            (ListKind::Tools, "gICA"),
        ] {
            assert_eq!(decode(kind, text), Err(InvalidCursor), "{text}");
        }
        assert_eq!(decode(ListKind::Tools, ""), Ok(None));
    }

    proptest! {
        #[test]
        fn cursor_decodes_to_its_name(name in ".*", index in 0..4_usize) {
            let kind = ListKind::ALL[index];
            prop_assert_eq!(decode(kind, &encode(kind, &name)).unwrap().unwrap(), name);
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            decode(ListKind::Tools, &text).ok();
        }
    }
}
