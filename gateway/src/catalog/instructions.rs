//! The gateway's `instructions` when its configuration sets none: those of the backends, joined and bounded.

use std::fmt::Write as _;

use crate::runtime::truncate::head;

/// Maximum bytes of one backend's instructions.
const MAX_BACKEND_BYTES: usize = 4 * 1024;
/// Maximum bytes of all instructions. They are part of every conversation with the model.
const MAX_TOTAL_BYTES: usize = 16 * 1024;

/// Joins the backends' instructions, each under a heading with the backend's name. A single backend's instructions get no heading.
pub(super) fn join<'a>(
    backends: usize,
    instructions: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<String> {
    let mut all = String::new();
    let mut omitted = Vec::new();
    for (backend, text) in instructions {
        if backends == 1 {
            return Some(truncated(text.trim(), MAX_TOTAL_BYTES));
        }
        let section = format!("# {backend}\n\n{}\n\n", truncated(text.trim(), MAX_BACKEND_BYTES));
        if all.len() + section.len() > MAX_TOTAL_BYTES {
            omitted.push(backend);
        } else {
            all.push_str(&section);
        }
    }
    if !omitted.is_empty() {
        let names: Vec<_> = omitted.iter().take(20).copied().collect();
        // Writing into a string cannot fail.
        write!(
            all,
            "The instructions of {} more are left out: {}",
            omitted.len(),
            names.join(", ")
        )
        .ok();
    }
    let all = all.trim_end();
    (!all.is_empty()).then(|| all.to_owned())
}

fn truncated(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}\n[cut]", head(text, most).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_backend_gets_no_heading() {
        let two = [("time", "Ask for the time.\n"), ("files", "Read files.")];
        assert_eq!(
            join(2, two.into_iter()).unwrap(),
            "# time\n\nAsk for the time.\n\n# files\n\nRead files."
        );
        assert_eq!(join(1, two.into_iter().take(1)).unwrap(), "Ask for the time.");
        assert_eq!(join(3, std::iter::empty()), None);
    }

    #[test]
    fn instructions_are_bounded_and_omissions_named() {
        let long = "é".repeat(50_000);
        let names: Vec<String> = (0..100).map(|number| format!("b{number}")).collect();
        let all = join(100, names.iter().map(|name| (name.as_str(), long.as_str()))).unwrap();
        assert!(all.len() < MAX_TOTAL_BYTES + 500, "{}", all.len());
        assert!(
            all.contains("[cut]") && all.contains("97 more are left out: b3, b4"),
            "{all}"
        );
    }
}
