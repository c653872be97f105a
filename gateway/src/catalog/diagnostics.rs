//! What `/status` tells people of the catalogue: a sentence each, of bounded length, and a bounded number of them.
//!
//! A backend may offer twenty thousand things whose names are wrong, and each name may be long. What goes wrong so often is not
//! understood better by more sentences, but how often it does is counted.

use std::fmt;

use crate::runtime::truncate::head;

/// How many sentences are kept of one backend at most, so that none takes the place of all others.
pub(super) const OF_ONE_BACKEND: usize = 100;
/// How many are kept at all.
pub(super) const OF_ALL: usize = 500;
/// The most bytes of a sentence. Backends' own words may stand in it.
const MAX_BYTES: usize = 1000;
/// The most bytes of a name in a sentence.
const MAX_NAME_BYTES: usize = 200;

/// Sentences for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    kept: Vec<String>,
    count: usize,
}

impl Diagnostics {
    /// Adds a sentence, which counts also when `limit` are kept already.
    pub(super) fn push(&mut self, limit: usize, sentence: impl fmt::Display) {
        self.count += 1;
        if self.kept.len() < limit {
            let mut sentence = sentence.to_string();
            let end = head(&sentence, MAX_BYTES).len();
            if end < sentence.len() {
                sentence.truncate(end);
                sentence.push('…');
            }
            self.kept.push(sentence);
        }
    }

    /// Adds those of `other`, as far as there is place.
    pub(super) fn extend(&mut self, limit: usize, other: &Self) {
        let place = limit.saturating_sub(self.kept.len());
        self.kept.extend(other.kept.iter().take(place).cloned());
        self.count += other.count;
    }

    /// How many there are, also of those that are not kept.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Those that are kept.
    #[must_use]
    pub fn kept(&self) -> &[String] {
        &self.kept
    }

    /// Those that are kept, and how many more there are.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let more = self.count - self.kept.len();
        let more = (more > 0).then(|| format!("and {more} more"));
        self.kept.iter().cloned().chain(more).collect()
    }
}

/// A name, in quotes and with a bound.
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
    fn what_is_not_kept_is_counted() {
        let mut of_one = Diagnostics::default();
        for number in 0..5 {
            of_one.push(3, format_args!("sentence {number}"));
        }
        assert_eq!(
            of_one.told(),
            ["sentence 0", "sentence 1", "sentence 2", "and 2 more"]
        );
        let mut of_all = Diagnostics::default();
        of_all.extend(4, &of_one);
        of_all.extend(4, &of_one);
        assert_eq!((of_all.kept().len(), of_all.count()), (4, 10));
        assert_eq!(
            of_all.told()[3..],
            ["sentence 0".to_owned(), "and 6 more".to_owned()]
        );
    }

    #[test]
    fn neither_a_sentence_nor_a_name_is_without_end() {
        let mut sentences = Diagnostics::default();
        sentences.push(1, "é".repeat(MAX_BYTES));
        assert_eq!(sentences.told(), [format!("{}…", "é".repeat(MAX_BYTES / 2))]);
        assert_eq!(quoted("a\"b"), r#""a\"b""#);
        assert_eq!(
            quoted(&"x".repeat(10_000)),
            format!("\"{}\"…", "x".repeat(MAX_NAME_BYTES))
        );
    }
}
