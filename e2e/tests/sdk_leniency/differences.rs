//! What an SDK makes of an odd server directly and through the gateway, compared, and the differences that are explained.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::play::{Outcome, Played};

/// The table: what is as it is meant to be, and why. Anything else is a fault of the gateway's.
const TABLE: &str = include_str!("differences.txt");

/// How the gateway's way differs from the direct one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Difference {
    /// What fails directly works.
    Gain,
    /// What works directly fails.
    Loss,
    /// Both work or both fail, each in its way.
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
    /// What the error says in which a loss ends.
    named: Option<&'static str>,
    reason: &'static str,
}

/// What one step has come to.
#[derive(Debug, PartialEq)]
enum Step {
    Works(Value),
    /// With the code of the error, where the SDK gives one.
    Fails(Option<i64>, String),
}

/// The connection and each request.
fn steps(played: &Played) -> Vec<Step> {
    const REQUESTS: usize = 3;
    let failed = |error: &Value| {
        let message = error["message"].as_str().unwrap_or_default().to_owned();
        Step::Fails(error["code"].as_i64(), message)
    };
    if let Some(error) = &played.connect {
        return (0..REQUESTS).map(|_| failed(error)).collect();
    }
    let step = |outcome: &Outcome| match outcome {
        Outcome::Error(error) => failed(error),
        Outcome::Result(result) => match gateways_own_error(result) {
            Some(text) => Step::Fails(None, text.to_owned()),
            None => Step::Works(result.clone()),
        },
    };
    played.outcomes.iter().map(step).collect()
}

/// The gateway tells a failed call in the result, where a model can read it.
fn gateways_own_error(result: &Value) -> Option<&str> {
    let text = result["content"][0]["text"].as_str()?;
    (result["isError"] == true && text.starts_with("The backend ")).then_some(text)
}

/// How `through` differs from `direct`, and the error in which a loss ends.
fn compare(direct: &Played, through: &Played) -> Option<(Difference, String)> {
    let mut found: Option<(Difference, String)> = None;
    for pair in steps(direct).into_iter().zip(steps(through)) {
        let difference = match pair {
            (Step::Works(_), Step::Fails(_, why)) => Some((Difference::Loss, why)),
            // The gateway lists what there is; nothing, where the server cannot be used.
            (Step::Fails(..), Step::Works(result)) if result["tools"] == json!([]) => None,
            (Step::Fails(..), Step::Works(_)) => Some((Difference::Gain, String::new())),
            (Step::Works(one), Step::Works(other)) => {
                (one != other).then(|| (Difference::Other, format!("{one} and {other}")))
            }
            (Step::Fails(Some(one), _), Step::Fails(Some(other), why)) => {
                (one != other).then_some((Difference::Other, why))
            }
            (Step::Fails(..), Step::Fails(..)) => None,
        };
        // A loss counts more than all else, and a gain more than what is only different.
        let weight = |difference: &(Difference, String)| match difference.0 {
            Difference::Loss => 2,
            Difference::Gain => 1,
            Difference::Other => 0,
        };
        if let Some(difference) = difference
            && found
                .as_ref()
                .is_none_or(|found| weight(found) < weight(&difference))
        {
            found = Some(difference);
        }
    }
    found
}

/// The differences of an SDK, each a line, that the table does not explain; and those that it explains and that are no more.
pub(crate) fn unexplained(
    sdk: &'static str,
    direct: &BTreeMap<String, Played>,
    through: &BTreeMap<String, Played>,
) -> anyhow::Result<Vec<String>> {
    let mut table = table(sdk)?;
    let mut wrong = Vec::new();
    for (name, one) in direct {
        let other = through
            .get(name)
            .with_context(|| format!("{name} was not played"))?;
        let found = compare(one, other);
        let explained = table.remove(&**name);
        match (found, explained) {
            (None, None) => {}
            (None, Some(explained)) => {
                wrong.push(format!(
                    "{name} {sdk}: no {} any more: {}",
                    explained.difference, explained.reason
                ));
            }
            (Some((difference, _)), Some(explained)) if difference != explained.difference => {
                wrong.push(format!(
                    "{name} {sdk}: a {difference}, and not a {}",
                    explained.difference
                ));
            }
            (
                Some((_, why)),
                Some(Explanation {
                    named: Some(named), ..
                }),
            ) if !why.contains(named) => {
                wrong.push(format!("{name} {sdk}: the error does not say {named:?}: {why}"));
            }
            (Some(_), Some(_)) => {}
            (Some((difference, why)), None) => {
                wrong.push(format!("{name} {sdk}: an unexplained {difference}: {why}"));
            }
        }
    }
    let unknown = table
        .keys()
        .map(|name| format!("{name}: there is no such server"));
    wrong.extend(unknown);
    Ok(wrong)
}

/// What the table explains of an SDK, by the server's name.
fn table(sdk: &str) -> anyhow::Result<BTreeMap<&'static str, Explanation>> {
    let mut explained = BTreeMap::new();
    let mut heading: Option<(Difference, Option<&'static str>, &'static str)> = None;
    for line in TABLE
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
        if of.is_empty() || of.contains(&sdk) {
            let explanation = Explanation {
                difference,
                named,
                reason,
            };
            anyhow::ensure!(
                explained.insert(name, explanation).is_none(),
                "{name} is explained twice for {sdk}"
            );
        }
    }
    Ok(explained)
}
