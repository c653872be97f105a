//! `cargo xtask conformance`: the official conformance suite through the gateway.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use vmcp_e2e::conformance_suite::{self, Backends};

/// The official conformance suite, through a gateway in front of our test server.
///
/// It runs twice: with the test server alone, and with a second backend behind the same gateway whose names have a prefix. Each time it
/// prints every scenario and `scored P/N`. It exits with 0 when every scenario passes, also those that the suite does not score.
#[derive(Parser)]
#[command(name = "cargo xtask conformance", version)]
struct Args {
    /// The revision of the protocol whose requirements are checked
    revision: Revision,
}

#[derive(Clone, Copy, ValueEnum)]
enum Revision {
    /// The last one with sessions
    #[value(name = "2025-11-25")]
    Legacy,
}

impl Revision {
    fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "2025-11-25",
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let revision = Args::parse().revision.as_str();
    let mut holds = true;
    for backends in [Backends::One, Backends::Two] {
        println!("conformance {revision} through the gateway: {backends}");
        let report = conformance_suite::run(revision, backends)?;
        println!("{report}\n");
        holds &= report.holds();
    }
    Ok(if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
