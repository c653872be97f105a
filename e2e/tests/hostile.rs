//! All attacks of hostile clients and backends at once for half a minute. `cargo xtask hostile` runs longer.

use std::time::Duration;

use vmcp_e2e::hostile::{self, MEMORY_BYTES};
use vmcp_external::confined::Confined;
use vmcp_external::requires;

/// A hostile backend and 50 hostile clients fail no honest call, memory stays below its bound, and the gateway is idle afterwards. The times,
/// and the memory that it keeps, are for `cargo xtask hostile`, which takes an optimised gateway and a machine that does nothing else.
#[requires(control_groups)]
#[test]
fn hostile_clients_and_backends_disturb_no_other() -> anyhow::Result<()> {
    let confined = Confined::new(MEMORY_BYTES)?;
    let report = hostile::run(&confined, Duration::from_secs(30))?;
    println!("{report}");
    report.check_bounds()
}
