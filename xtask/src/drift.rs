//! Shows how a generated file differs from the committed one.

/// Most differing lines that are shown of each side.
const MAX_LINES: usize = 10;

/// The first lines in which `found` and `wanted` differ, with their number. `None` if they are equal.
pub(crate) fn drift(found: &str, wanted: &str) -> Option<String> {
    if found == wanted {
        return None;
    }
    let (found, wanted): (Vec<_>, Vec<_>) = (found.lines().collect(), wanted.lines().collect());
    let same = found.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
    let (found, wanted) = (&found[same..], &wanted[same..]);
    // Equal lines at the end are not part of the difference.
    let end = (found.iter().rev().zip(wanted.iter().rev()))
        .take_while(|(a, b)| a == b)
        .count();
    let mut lines = vec![format!("line {}:", same + 1)];
    for (sign, part) in [("-", found), ("+", wanted)] {
        let changed = &part[..part.len() - end];
        lines.extend(
            changed
                .iter()
                .take(MAX_LINES)
                .map(|line| format!("{sign} {line}")),
        );
        if changed.len() > MAX_LINES {
            lines.push(format!("{sign} ... and {} more lines", changed.len() - MAX_LINES));
        }
    }
    if lines.len() == 1 {
        lines.push("only the line endings differ".to_owned());
    }
    Some(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::drift;

    #[test]
    fn equal_texts_have_no_drift() {
        assert_eq!(drift("a\nb\n", "a\nb\n"), None);
    }

    #[test]
    fn change_is_shown_with_line_number_and_both_sides() {
        assert_eq!(drift("a\nb\nc\n", "a\nB\nc\n").unwrap(), "line 2:\n- b\n+ B");
        assert_eq!(drift("a\n", "a\nb\n").unwrap(), "line 2:\n+ b");
        assert_eq!(drift("a\na\n", "a\n").unwrap(), "line 2:\n- a");
        assert!(drift("a", "a\n").unwrap().contains("line endings"));
    }

    #[test]
    fn long_change_is_truncated() {
        let long: String = (0..50).map(|line| format!("{line}\n")).collect();
        let text = drift("", &long).unwrap();
        assert!(text.ends_with("+ 9\n+ ... and 40 more lines"), "{text}");
    }
}
