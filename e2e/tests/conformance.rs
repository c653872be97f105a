//! The official conformance suite passes through the gateway, every scenario of it.

use vmcp_e2e::conformance::{self, Backends};

/// What revision 2025-11-25 demands of a server, and what the suite runs beside it.
const SCORED: usize = 30;
const NOT_SCORED: [&str; 3] = [
    "server-session-lifecycle",
    "json-schema-2020-12",
    "server-sse-polling",
];

fn passes(backends: Backends) -> anyhow::Result<()> {
    if vmcp_peers::left_out("conformance") {
        return Ok(());
    }
    let report = conformance::run("2025-11-25", backends)?;
    println!("{backends}:\n{report}");
    assert!(report.holds(), "{backends}:\n{report}");
    assert_eq!(report.score(), (SCORED, SCORED), "{report}");
    let others = report.scenarios.iter().filter(|scenario| !scenario.scored);
    let others: Vec<_> = others.map(|scenario| scenario.name.as_str()).collect();
    assert_eq!(others, NOT_SCORED);
    Ok(())
}

/// The suite passes with one backend whose names stay as they are.
#[test]
fn suite_passes_with_one_backend_and_plain_names() -> anyhow::Result<()> {
    passes(Backends::One)
}

#[test]
fn the_suite_passes_with_a_second_backend_behind_a_prefix() -> anyhow::Result<()> {
    passes(Backends::Two)
}
