//! Wildcard patterns over names and URIs.

// The text comes from untrusted clients.
#![cfg_attr(
    not(test),
    warn(clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)
)]

use crate::config::canonical_uri::canonical;
use crate::runtime::step_counter;

/// A name, or a pattern in which `*` stands for any characters and `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// The pattern with the source `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The source text of the pattern.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// The name, if the pattern has no wildcards and so matches only itself.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        (!self.0.contains(['*', '?'])).then_some(&self.0)
    }

    /// Whether a URI with the [`canonical`] form `form` matches the pattern, or the canonical form of the pattern.
    pub(super) fn matches_canonical(&self, form: &str) -> bool {
        self.matches(form) || Self::new(&canonical(&self.0)).matches(form)
    }

    /// Whether `text` matches the pattern. Greedy matching that backtracks to the last star only, so that the time is at most the product
    /// of both lengths.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut at, mut read) = (0, 0);
        // The last star, and the position in `text` where it was met. On a mismatch the star takes one more byte.
        let mut star: Option<(usize, usize)> = None;
        while let Some(&byte) = text.get(read) {
            step_counter::count(1);
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, read));
                    at += 1;
                    continue;
                }
                Some(b'?') => {
                    at += 1;
                    read += char_len(byte);
                    continue;
                }
                Some(expected) if *expected == byte => {
                    at += 1;
                    read += 1;
                    continue;
                }
                _ => {}
            }
            let Some((star_at, star_read)) = star else {
                return false;
            };
            star = Some((star_at, star_read + 1));
            at = star_at + 1;
            read = star_read + 1;
        }
        let rest = pattern.get(at..).unwrap_or_default();
        rest.iter().all(|byte| *byte == b'*')
    }
}

/// The length in bytes of the UTF-8 character whose first byte is `first`.
fn char_len(first: u8) -> usize {
    match first {
        0xF0.. => 4,
        0xE0.. => 3,
        0xC0.. => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;
    use crate::runtime::step_counter::assert_linear;

    #[test]
    fn pattern_without_wildcards_matches_itself_only() {
        assert!(Pattern::new("get_time").matches("get_time"));
        for text in ["get_times", "get_tim", "", "GET_TIME"] {
            assert!(!Pattern::new("get_time").matches(text), "{text}");
        }
    }

    #[test]
    fn star_matches_any_text_and_question_mark_one_character() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anything/at all", true),
            ("get_*", "get_", true),
            ("get_*", "get", false),
            ("*_time", "get_time", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("g?t", "get", true),
            ("g?t", "gt", false),
            ("g?t", "gét", true),
            ("file:///a/*", "file:///a/b/c?d", true),
            ("", "", true),
            ("", "x", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn matching_is_linear_in_the_text() {
        for pattern in ["*a*b", "*aaab", "a*a*a*b", "????*b", "*"] {
            let pattern = Pattern::new(pattern);
            assert_linear(
                500,
                |bytes| "a".repeat(bytes),
                |text| {
                    assert_eq!(pattern.matches(&text), pattern == Pattern::new("*"));
                },
            );
        }
    }

    #[test]
    fn many_stars_do_not_backtrack_exponentially() {
        let pattern = Pattern::new(&"*a".repeat(50));
        assert!(!pattern.matches(&"a".repeat(49)));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(5000))));
    }
}
