//! Texts of the reference page in Markdown.

/// The anchor that GitHub gives a heading.
pub(super) fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || "-_".contains(*c));
    kept.collect::<String>().to_lowercase()
}

/// A description as one line of Markdown in which no character outside of code has a meaning.
pub(super) fn plain(description: &str) -> String {
    let line = description.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut is_code = false;
    let mut text = String::new();
    for character in line.chars() {
        match character {
            '`' => is_code = !is_code,
            // A table's cell ends here, also in code.
            '|' => text.push('\\'),
            '<' if !is_code => {
                text.push_str("&lt;");
                continue;
            }
            '*' | '[' if !is_code => text.push('\\'),
            _ => {}
        }
        text.push(character);
    }
    text
}

/// Splits a description into its text and the default that it names at its end, as code.
pub(super) fn split_default(description: &str) -> (String, Option<&str>) {
    const MARK: &str = "Default: `";
    let found = description.find(MARK).and_then(|start| {
        let value = &description[start + MARK.len()..];
        let (value, rest) = value.split_once("`.")?;
        (!value.contains('`')).then_some((start, value, rest))
    });
    match found {
        Some((start, value, rest)) => (format!("{}{rest}", description[..start].trim_end()), Some(value)),
        None => (description.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_split_from_description() {
        let split = |text| {
            let (text, default) = split_default(text);
            (text, default.map(str::to_owned))
        };
        let expected = ("Time.".to_owned(), Some("5s".to_owned()));
        assert_eq!(split("Time. Default: `5s`."), expected);
        let expected = ("Time. At most `1m`.".to_owned(), Some("5s".to_owned()));
        assert_eq!(split("Time. Default: `5s`. At most `1m`."), expected);
        for whole in ["Default: the first of them.", "Default: `a` and `b`."] {
            assert_eq!(split(whole), (whole.to_owned(), None));
        }
    }

    #[test]
    fn markup_outside_of_code_is_escaped() {
        assert_eq!(plain("a <b> *c* [d]\n e"), "a &lt;b> \\*c\\* \\[d] e");
        assert_eq!(plain("`a <b> * [c] | d`"), "`a <b> * [c] \\| d`");
    }
}
