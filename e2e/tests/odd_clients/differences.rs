//! Compares the outcomes of odd clients directly and through the gateway.

use std::collections::BTreeMap;

use anyhow::Context as _;
use vmcp_e2e::differences::{self, Difference, Found, heavier};

use crate::conversation::Step;

/// The table of intended differences with their reasons. Any other difference is a fault of the gateway.
const TABLE: &str = include_str!("differences.txt");

/// The outcomes of each client's steps, by the client's name.
pub(crate) type Played = BTreeMap<String, Vec<Step>>;

/// How `through` differs from `direct`. A direct failure that works through the gateway needs no explanation.
fn compare(direct: &[Step], through: &[Step]) -> Option<Found> {
    let pairs = direct.iter().zip(through);
    let differences = pairs.map(|pair| match pair {
        (Step::Works(_), Step::Fails(why)) => Some((Difference::Loss, why.clone())),
        (Step::Works(one), Step::Works(other)) => {
            (one != other).then(|| (Difference::Other, format!("{one} and {other}")))
        }
        (Step::Fails(_), _) => None,
    });
    differences.fold(None, heavier)
}

/// The differences of an SDK that the table does not explain, one per line, and the explained ones that no longer exist.
pub(crate) fn unexplained(sdk: &str, direct: &Played, through: &Played) -> anyhow::Result<Vec<String>> {
    let mut found = BTreeMap::new();
    for (name, one) in direct {
        let other = through
            .get(name)
            .with_context(|| format!("{name} was not played"))?;
        anyhow::ensure!(
            one.len() == other.len(),
            "{name} has other steps through the gateway"
        );
        found.insert(&**name, compare(one, other));
    }
    differences::unexplained(sdk, TABLE, found)
}
