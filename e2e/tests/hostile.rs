//! What one client and one backend can take, all of it at once, for half a minute. `cargo xtask hostile` runs it for longer.

use std::time::Duration;

use vmcp_e2e::hostile::{self, MEMORY_BYTES};
use vmcp_peers::confined::Confined;

/// A hostile backend and 50 hostile clients fail no honest call, memory stays below its bound, and the gateway is idle afterwards. The times,
/// and the memory that it keeps, are for `cargo xtask hostile`, which takes an optimised gateway and a machine that does nothing else.
#[test]
fn hostile_clients_and_backends_disturb_nobody() -> anyhow::Result<()> {
    if vmcp_peers::left_out("control-groups") {
        return Ok(());
    }
    let confined = Confined::new(MEMORY_BYTES)?;
    let report = hostile::run(&confined, Duration::from_secs(30))?;
    println!("{report}");
    report.check_bounds()
}
