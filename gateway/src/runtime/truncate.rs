//! Texts that are cut to a bound: what a client or a backend wrote stands in logs, errors and `/status`, and is as long as it likes.

use std::fmt::{self, Write as _};

/// The most bytes of an error's text, and of any other text that repeats what somebody else wrote.
pub(crate) const MAX_ERROR_BYTES: usize = 1000;

/// The beginning of `text`, at most `bytes` long, and never half a character.
pub(crate) fn head(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

/// The beginning of what `text` shows, at most `bytes` long and with a sign where something is missing. No more than that is written.
pub(crate) fn brief(text: impl fmt::Display, bytes: usize) -> String {
    struct Truncated {
        text: String,
        left: usize,
    }
    impl fmt::Write for Truncated {
        fn write_str(&mut self, more: &str) -> fmt::Result {
            let taken = head(more, self.left);
            self.text.push_str(taken);
            self.left = self.left.saturating_sub(taken.len());
            if taken.len() < more.len() {
                self.text.push('…');
                // Whoever writes stops here.
                return Err(fmt::Error);
            }
            Ok(())
        }
    }
    let mut brief = Truncated {
        text: String::new(),
        left: bytes,
    };
    write!(brief, "{text}").ok();
    brief.text
}

#[cfg(test)]
mod tests {
    use super::{brief, head};

    #[test]
    fn brief_text_says_that_something_is_missing() {
        assert_eq!(brief("aé", 3), "aé");
        assert_eq!(brief("aé", 2), "a…");
        assert_eq!(brief(format_args!("{}{}", "ab", "cd"), 3), "abc…");
        assert_eq!(brief("x".repeat(3 << 20), 1000).len(), 1003);
    }

    #[test]
    fn a_character_is_kept_whole_or_left_out() {
        assert_eq!(head("aé", 1), "a");
        assert_eq!(head("aé", 2), "a");
        assert_eq!(head("aé", 3), "aé");
        assert_eq!(head("aé", 9), "aé");
    }
}
