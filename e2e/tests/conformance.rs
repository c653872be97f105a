//! Every scenario of the official conformance suite passes through the gateway.

use vmcp_e2e::conformance_suite::{self, Backends};
use vmcp_external::requires;

/// The number of required scenarios of revision 2025-11-25, and the others that the suite runs.
const SCORED: usize = 30;
const NOT_SCORED: [&str; 3] = [
    "server-session-lifecycle",
    "json-schema-2020-12",
    "server-sse-polling",
];

fn passes(backends: Backends) -> anyhow::Result<()> {
    let report = conformance_suite::run("2025-11-25", backends)?;
    println!("{backends}:\n{report}");
    assert!(report.holds(), "{backends}:\n{report}");
    assert_eq!(report.score(), (SCORED, SCORED), "{report}");
    let others = report.scenarios.iter().filter(|scenario| !scenario.scored);
    let others: Vec<_> = others.map(|scenario| scenario.name.as_str()).collect();
    assert_eq!(others, NOT_SCORED);
    Ok(())
}

/// The suite passes with one backend whose names stay as they are.
#[requires(conformance)]
#[test]
fn suite_passes_with_one_backend_and_plain_names() -> anyhow::Result<()> {
    passes(Backends::One)
}

#[requires(conformance)]
#[test]
fn suite_passes_with_second_backend_and_prefix() -> anyhow::Result<()> {
    passes(Backends::Two)
}
