//! What the gateway tells a model about using it, when its configuration does not say.

use std::fmt::Write as _;

use crate::runtime::truncate::head;

/// How much of one backend's instructions is passed on.
const MAX_OF_ONE: usize = 4 * 1024;
/// How much is passed on in all: it is part of every conversation.
const MAX_OF_ALL: usize = 16 * 1024;

/// The backends' instructions as one text, each under a heading with the backend's name; those of an only backend as they are.
pub(super) fn join<'a>(
    backends: usize,
    instructions: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<String> {
    let mut all = String::new();
    let mut left_out = Vec::new();
    for (backend, text) in instructions {
        if backends == 1 {
            return Some(cut(text.trim(), MAX_OF_ALL));
        }
        let section = format!("# {backend}\n\n{}\n\n", cut(text.trim(), MAX_OF_ONE));
        if all.len() + section.len() > MAX_OF_ALL {
            left_out.push(backend);
        } else {
            all.push_str(&section);
        }
    }
    if !left_out.is_empty() {
        let names: Vec<_> = left_out.iter().take(20).copied().collect();
        // Writing into a string cannot fail.
        write!(
            all,
            "The instructions of {} more are left out: {}",
            left_out.len(),
            names.join(", ")
        )
        .ok();
    }
    let all = all.trim_end();
    (!all.is_empty()).then(|| all.to_owned())
}

fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}\n[cut]", head(text, most).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_backend_has_a_heading_and_an_only_one_needs_none() {
        let two = [("time", "Ask for the time.\n"), ("files", "Read files.")];
        assert_eq!(
            join(2, two.into_iter()).unwrap(),
            "# time\n\nAsk for the time.\n\n# files\n\nRead files."
        );
        assert_eq!(join(1, two.into_iter().take(1)).unwrap(), "Ask for the time.");
        assert_eq!(join(3, std::iter::empty()), None);
    }

    #[test]
    fn the_whole_is_bounded_and_says_what_is_missing() {
        let long = "é".repeat(50_000);
        let names: Vec<String> = (0..100).map(|number| format!("b{number}")).collect();
        let all = join(100, names.iter().map(|name| (name.as_str(), long.as_str()))).unwrap();
        assert!(all.len() < MAX_OF_ALL + 500, "{}", all.len());
        assert!(
            all.contains("[cut]") && all.contains("97 more are left out: b3, b4"),
            "{all}"
        );
    }
}
