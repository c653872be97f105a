//! Compares the outcomes of SDKs directly and through a gateway, with a table that explains the intended differences.
//!
//! A heading of the table has the kind and the reason. Each row below it names a case, and the SDKs that it applies to; all SDKs if it names none:
//!
//! ```text
//! gain: REASON            it fails directly, and works through the gateway
//! loss "TEXT": REASON     it works directly, and ends in an error with this text through the gateway
//! other: REASON           it works or fails both ways, with another outcome
//!     CASE SDK SDK
//! ```

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, bail};

/// The kind of a difference between direct and through the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// It fails directly, and works through the gateway.
    Gain,
    /// It works directly, and fails through the gateway.
    Loss,
    /// Both work or both fail, with different outcomes.
    Other,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gain => "gain",
            Self::Loss => "loss",
            Self::Other => "other",
        })
    }
}

/// An explanation, from the table.
struct Explanation {
    difference: Difference,
    /// A text in the error of a loss.
    named: Option<&'static str>,
    reason: &'static str,
}

/// A difference, and the error of a loss.
pub type Found = (Difference, String);

/// The most important kind represents a case with several differences: a loss before a gain, and a gain before another difference.
#[must_use]
pub fn heavier(one: Option<Found>, other: Option<Found>) -> Option<Found> {
    let weight = |found: &Found| match found.0 {
        Difference::Loss => 2,
        Difference::Gain => 1,
        Difference::Other => 0,
    };
    match (one, other) {
        (Some(one), Some(other)) if weight(&one) < weight(&other) => Some(other),
        (Some(one), _) => Some(one),
        (None, other) => other,
    }
}

/// The differences in `found` that the table does not explain, one per line, and the explained ones that no longer exist.
///
/// # Errors
/// When the table is malformed.
pub fn unexplained(
    peer: &str,
    table: &'static str,
    found: BTreeMap<&str, Option<Found>>,
) -> anyhow::Result<Vec<String>> {
    let mut table = explanations(peer, table)?;
    let mut wrong = Vec::new();
    for (name, found) in found {
        let explained = table.remove(name);
        match (found, explained) {
            (None, None) => {}
            (None, Some(explained)) => {
                wrong.push(format!(
                    "{name} {peer}: no {} any more: {}",
                    explained.difference, explained.reason
                ));
            }
            (Some((difference, _)), Some(explained)) if difference != explained.difference => {
                wrong.push(format!(
                    "{name} {peer}: a {difference}, and not a {}",
                    explained.difference
                ));
            }
            (
                Some((_, why)),
                Some(Explanation {
                    named: Some(named), ..
                }),
            ) if !why.contains(named) => {
                wrong.push(format!("{name} {peer}: the error does not say {named:?}: {why}"));
            }
            (Some(_), Some(_)) => {}
            (Some((difference, why)), None) => {
                wrong.push(format!("{name} {peer}: an unexplained {difference}: {why}"));
            }
        }
    }
    let unknown = table
        .keys()
        .map(|name| format!("{name}: the table explains what there is not"));
    wrong.extend(unknown);
    Ok(wrong)
}

/// The explanations for an SDK, by the case's name.
fn explanations(peer: &str, table: &'static str) -> anyhow::Result<BTreeMap<&'static str, Explanation>> {
    let mut explained = BTreeMap::new();
    let mut heading: Option<(Difference, Option<&'static str>, &'static str)> = None;
    for line in table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some((kind, reason)) = line.split_once(": ").filter(|_| !line.starts_with(' ')) {
            let (kind, named) = match kind.split_once(' ') {
                Some((kind, named)) => (kind, Some(named.trim_matches('"'))),
                None => (kind, None),
            };
            let difference = match kind {
                "gain" => Difference::Gain,
                "loss" if named.is_some() => Difference::Loss,
                "other" => Difference::Other,
                _ => bail!("not a heading of the table: {line}"),
            };
            heading = Some((difference, named, reason));
            continue;
        }
        let (difference, named, reason) = heading.context("the table begins without a heading")?;
        let mut words = line.split_whitespace();
        let name = words.next().context("an empty row")?;
        let of = words.collect::<Vec<_>>();
        if of.is_empty() || of.contains(&peer) {
            let explanation = Explanation {
                difference,
                named,
                reason,
            };
            anyhow::ensure!(
                explained.insert(name, explanation).is_none(),
                "{name} is explained twice for {peer}"
            );
        }
    }
    Ok(explained)
}
