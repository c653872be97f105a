//! Where the next page of a list begins.
//!
//! A cursor holds the last name of the page before and not a position, so that it stays right when the list changes, and so that any
//! replica, also one that was started meanwhile, goes on with it.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::backend::ListKind;

/// The text is not a cursor of this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one that this list gave; ask for the list without a cursor")]
pub struct InvalidCursor;

/// The cursor of the page of `kind` that begins after `last`.
pub(super) fn encode(kind: ListKind, last: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{}{last}", tag(kind)))
}

/// After which name the page begins. An empty cursor is one, and means the beginning.
pub(super) fn decode(kind: ListKind, cursor: &str) -> Result<Option<String>, InvalidCursor> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| InvalidCursor)?;
    let text = String::from_utf8(bytes).map_err(|_| InvalidCursor)?;
    let last = text.strip_prefix(tag(kind)).ok_or(InvalidCursor)?;
    Ok(Some(last.to_owned()))
}

/// What a cursor begins with, so that one list's is refused by another.
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
    fn what_is_no_cursor_of_the_list_is_refused() {
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
        fn a_cursor_gives_back_its_name(name in ".*", index in 0..4_usize) {
            let kind = ListKind::ALL[index];
            prop_assert_eq!(decode(kind, &encode(kind, &name)).unwrap().unwrap(), name);
        }

        #[test]
        fn any_text_is_a_cursor_or_refused(text in ".*") {
            decode(ListKind::Tools, &text).ok();
        }
    }
}
