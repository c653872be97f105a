//! Patterns over names and URIs.

// Strangers send what is read here.
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
    /// The pattern that is written as `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The pattern as it is written.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// The text, if it is one name and has no wildcards.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        (!self.0.contains(['*', '?'])).then_some(&self.0)
    }

    /// Whether a URI whose [`canonical`] form this is means what the pattern describes.
    pub(super) fn is_form_of(&self, form: &str) -> bool {
        self.matches(form) || Self::new(&canonical(&self.0)).matches(form)
    }

    /// Whether `text` is what the pattern describes. Takes at most the product of both lengths, whatever they hold.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut at, mut read) = (0, 0);
        // The last star, and what was read when it was met: it is tried again with one byte more.
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

/// How many bytes the character takes that begins with `first`.
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
    fn a_pattern_without_wildcards_is_exact() {
        assert!(Pattern::new("get_time").matches("get_time"));
        for text in ["get_times", "get_tim", "", "GET_TIME"] {
            assert!(!Pattern::new("get_time").matches(text), "{text}");
        }
    }

    #[test]
    fn wildcards_stand_for_any_characters_and_for_one() {
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
    fn matching_takes_linear_time_in_the_text() {
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
    fn many_stars_take_no_time() {
        let pattern = Pattern::new(&"*a".repeat(50));
        assert!(!pattern.matches(&"a".repeat(49)));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(5000))));
    }
}
