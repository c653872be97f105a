//! Truncates texts of clients and backends, which may have any length, before they appear in logs, errors and `/status`.

use std::fmt::{self, Write as _};

/// Largest size in bytes of an error message, and of any other text that repeats the text of a client or a backend.
pub(crate) const MAX_ERROR_BYTES: usize = 1000;

/// The beginning of `text`, at most `bytes` long, without splitting a character.
pub(crate) fn head(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

/// Formats `text`, truncated to `bytes` bytes and an ellipsis. Formatting stops at the limit.
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
                // Stops the formatting.
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
    fn truncated_text_ends_with_an_ellipsis() {
        assert_eq!(brief("aé", 3), "aé");
        assert_eq!(brief("aé", 2), "a…");
        assert_eq!(brief(format_args!("{}{}", "ab", "cd"), 3), "abc…");
        assert_eq!(brief("x".repeat(3 << 20), 1000).len(), 1003);
    }

    #[test]
    fn character_is_kept_whole_or_left_out() {
        assert_eq!(head("aé", 1), "a");
        assert_eq!(head("aé", 2), "a");
        assert_eq!(head("aé", 3), "aé");
        assert_eq!(head("aé", 9), "aé");
    }
}
