//! Words of the POSIX shell.

use std::path::Path;

/// The text as one word of the shell, in quotes only where they are necessary.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@%+,=".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        text.to_owned()
    } else {
        always_quoted(text)
    }
}

/// The text as one word of the shell, in single quotes.
pub(super) fn always_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The value of a variable as one word, or `default` where the variable is empty or not set.
pub(super) fn variable(name: &str, default: Option<&str>) -> String {
    let Some(default) = default else {
        return format!("\"${{{name}}}\"");
    };
    let mut word = format!("\"${{{name}:-");
    for character in default.chars() {
        if "\\\"$`".contains(character) {
            word.push('\\');
        }
        word.push(character);
    }
    word.push_str("}\"");
    word
}

/// The path of a file as one word. It contains a slash, because the shell searches a path without one in `PATH`.
pub(super) fn path(path: &Path) -> String {
    let text = path.display().to_string();
    if text.contains('/') {
        quoted(&text)
    } else {
        quoted(&format!("./{text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_necessary() {
        assert_eq!(quoted("@scope/pkg@1.2-x"), "@scope/pkg@1.2-x");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("~"), "'~'");
        assert_eq!(path(Path::new("vmcp.env")), "./vmcp.env");
        assert_eq!(path(Path::new("/a b/vmcp.env")), "'/a b/vmcp.env'");
        assert_eq!(variable("A", None), "\"${A}\"");
        assert_eq!(variable("A", Some("$x")), "\"${A:-\\$x}\"");
    }
}
