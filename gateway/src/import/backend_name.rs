//! Names of backends: DNS labels, made of the free names that clients allow.

use std::collections::BTreeSet;

use vmcp_crds::config::rules::is_dns_label;

/// The longest DNS label.
const MAX_BYTES: usize = 63;

/// The names that are in use.
#[derive(Clone)]
pub(super) struct BackendNames {
    taken: BTreeSet<String>,
    /// Names that need no change, and belong to the servers that have them.
    unchanged: BTreeSet<String>,
}

impl BackendNames {
    /// Names for servers that have `names`.
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self {
            taken: BTreeSet::new(),
            unchanged: names
                .filter(|name| is_dns_label(name))
                .map(str::to_owned)
                .collect(),
        }
    }

    /// A DNS label for the server `name` that no other server has.
    pub(super) fn unique(&mut self, name: &str) -> String {
        let base = dns_label(name);
        let mut unique = base.clone();
        let mut count = 1;
        while (unique != name && self.unchanged.contains(&unique)) || !self.taken.insert(unique.clone()) {
            count += 1;
            let suffix = format!("-{count}");
            let mut kept = base.clone();
            kept.truncate(MAX_BYTES.saturating_sub(suffix.len()));
            unique = format!("{}{suffix}", kept.trim_end_matches('-'));
        }
        unique
    }
}

/// The name as a DNS label: in lower case, with one `-` for each sequence of other characters.
fn dns_label(name: &str) -> String {
    if is_dns_label(name) {
        return name.to_owned();
    }
    let mut label = String::new();
    for character in name.chars() {
        if character.is_ascii_alphanumeric() {
            label.push(character.to_ascii_lowercase());
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
    }
    label.truncate(MAX_BYTES);
    let label = label.trim_end_matches('-');
    if label.is_empty() {
        "server".to_owned()
    } else {
        label.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_unique_dns_labels() {
        let long = "x".repeat(70);
        let expected = [
            ("GitHub", "github-2"),
            ("github", "github"),
            ("My Server (prod)_1", "my-server-prod-1"),
            ("--x--", "x"),
            ("日本", "server"),
            ("", "server-2"),
            (&long, &"x".repeat(63)),
            (&long, &format!("{}-2", "x".repeat(61))),
            ("a.b/c", "a-b-c"),
            ("a--b", "a--b"),
            ("time", "time"),
            ("time", "time-2"),
        ];
        let mut names = BackendNames::new(expected.iter().map(|(name, _)| *name));
        for (name, expected) in expected {
            let unique = names.unique(name);
            assert_eq!(unique, expected, "{name}");
            assert!(is_dns_label(&unique), "{unique}");
        }
    }
}
