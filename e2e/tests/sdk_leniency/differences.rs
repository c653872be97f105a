//! Compares the outcomes of SDKs at odd servers directly and through the gateway.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::{Value, json};
use vmcp_e2e::differences::{self, Difference, Found, heavier};

use crate::play::{Outcome, Played};

/// The table of intended differences with their reasons. Any other difference is a fault of the gateway.
const TABLE: &str = include_str!("differences.txt");

/// The outcome of one step.
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

/// The gateway reports a failed call in the result, where a model can read it.
fn gateways_own_error(result: &Value) -> Option<&str> {
    let text = result["content"][0]["text"].as_str()?;
    (result["isError"] == true && text.starts_with("The backend ")).then_some(text)
}

/// How `through` differs from `direct`, and the error in which a loss ends.
fn compare(direct: &Played, through: &Played) -> Option<Found> {
    let pairs = steps(direct).into_iter().zip(steps(through));
    let differences = pairs.map(|pair| match pair {
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
    });
    differences.fold(None, heavier)
}

/// The differences of an SDK that the table does not explain, one per line, and the explained ones that no longer exist.
pub(crate) fn unexplained(
    sdk: &'static str,
    direct: &BTreeMap<String, Played>,
    through: &BTreeMap<String, Played>,
) -> anyhow::Result<Vec<String>> {
    let mut found = BTreeMap::new();
    for (name, one) in direct {
        let other = through
            .get(name)
            .with_context(|| format!("{name} was not played"))?;
        found.insert(&**name, compare(one, other));
    }
    differences::unexplained(sdk, TABLE, found)
}
