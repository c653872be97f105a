//! Texts that are cut to a bound.

/// The beginning of `text`, at most `bytes` long, and never half a character.
pub(crate) fn head(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::head;

    #[test]
    fn a_character_is_kept_whole_or_left_out() {
        assert_eq!(head("aé", 1), "a");
        assert_eq!(head("aé", 2), "a");
        assert_eq!(head("aé", 3), "aé");
        assert_eq!(head("aé", 9), "aé");
    }
}
