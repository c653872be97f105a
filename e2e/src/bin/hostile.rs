//! `cargo xtask hostile`: hostile clients and backends against a gateway with the memory of a pod and one core.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use vmcp_e2e::hostile::{self, MEMORY_BYTES};
use vmcp_external::confined::Confined;

/// Attacks of hostile clients and backends, all at once, while honest sessions call other backends.
///
/// The gateway gets 512 MiB and one core, which needs root and Linux. Prints a table of figures, and fails if one exceeds its limit.
#[derive(Parser)]
#[command(name = "cargo xtask hostile", bin_name = "cargo xtask hostile")]
struct Arguments {
    /// How long the attack takes; up to a minute before it the honest sessions are measured alone and beside a busy neighbour
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    minutes: u64,
    /// Be the attacker of a scenario that listens here
    #[arg(long, hide = true)]
    control: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let run = || {
        let arguments = Arguments::parse();
        if let Some(control) = arguments.control {
            return hostile::attack_on_command(control);
        }
        let confined = Confined::new(MEMORY_BYTES)?;
        let report = hostile::run(&confined, Duration::from_secs(arguments.minutes * 60))?;
        println!("{report}");
        report.check()
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
