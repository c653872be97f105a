//! Bounded collections of messages about the catalog, for `/status`.
//!
//! A backend may list twenty thousand items with invalid names, and each name may be long. So the number and the length of the messages are
//! limited; the count covers all of them.

use std::fmt;

use crate::runtime::truncate::head;

/// Maximum number of messages of one backend, so that one backend cannot push out those of the others.
pub(super) const MAX_PER_BACKEND: usize = 100;
/// Maximum number of messages of all backends together.
pub(super) const MAX_TOTAL: usize = 500;
/// Maximum bytes of one message. It may quote text of a backend.
const MAX_MESSAGE_BYTES: usize = 1000;
/// Maximum bytes of a quoted name.
const MAX_NAME_BYTES: usize = 200;

/// A bounded list of human-readable messages, with the count of all that occurred.
///
/// ```
/// use vmcp_gateway::catalog::Diagnostics;
///
/// let conflicts = Diagnostics::default();
/// assert_eq!(conflicts.count(), 0);
/// assert!(conflicts.to_lines().is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    kept: Vec<String>,
    count: usize,
}

impl Diagnostics {
    /// Counts a message, and stores it if fewer than `limit` are stored.
    pub(super) fn push(&mut self, limit: usize, message: impl fmt::Display) {
        self.count += 1;
        if self.kept.len() < limit {
            let mut message = message.to_string();
            let end = head(&message, MAX_MESSAGE_BYTES).len();
            if end < message.len() {
                message.truncate(end);
                message.push('…');
            }
            self.kept.push(message);
        }
    }

    /// Adds the count of `other`, and its stored messages up to `limit`.
    pub(super) fn extend(&mut self, limit: usize, other: &Self) {
        let place = limit.saturating_sub(self.kept.len());
        self.kept.extend(other.kept.iter().take(place).cloned());
        self.count += other.count;
    }

    /// Number of all messages, including those that were not stored.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The stored messages, oldest first.
    #[must_use]
    pub fn kept(&self) -> &[String] {
        &self.kept
    }

    /// The stored messages, followed by `and N more` if some were not stored.
    #[must_use]
    pub fn to_lines(&self) -> Vec<String> {
        let more = self.count - self.kept.len();
        let more = (more > 0).then(|| format!("and {more} more"));
        self.kept.iter().cloned().chain(more).collect()
    }
}

/// Quotes a name for a message, and truncates it to [`MAX_NAME_BYTES`].
pub(super) fn quoted(name: &str) -> String {
    let shown = head(name, MAX_NAME_BYTES);
    if shown.len() < name.len() {
        format!("{shown:?}…")
    } else {
        format!("{shown:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_beyond_the_limit_are_counted() {
        let mut of_one = Diagnostics::default();
        for number in 0..5 {
            of_one.push(3, format_args!("message {number}"));
        }
        assert_eq!(
            of_one.to_lines(),
            ["message 0", "message 1", "message 2", "and 2 more"]
        );
        let mut of_all = Diagnostics::default();
        of_all.extend(4, &of_one);
        of_all.extend(4, &of_one);
        assert_eq!((of_all.kept().len(), of_all.count()), (4, 10));
        assert_eq!(
            of_all.to_lines()[3..],
            ["message 0".to_owned(), "and 6 more".to_owned()]
        );
    }

    #[test]
    fn messages_and_names_are_truncated() {
        let mut messages = Diagnostics::default();
        messages.push(1, "é".repeat(MAX_MESSAGE_BYTES));
        assert_eq!(
            messages.to_lines(),
            [format!("{}…", "é".repeat(MAX_MESSAGE_BYTES / 2))]
        );
        assert_eq!(quoted("a\"b"), r#""a\"b""#);
        assert_eq!(
            quoted(&"x".repeat(10_000)),
            format!("\"{}\"…", "x".repeat(MAX_NAME_BYTES))
        );
    }
}
