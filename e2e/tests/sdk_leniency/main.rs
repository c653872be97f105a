//! The gateway is at least as lenient as the official SDKs are: what any of them accepts works through the gateway, too, unless it is unsafe.
//!
//! Clients on the SDKs play one corpus of odd servers, directly and through gateways. Each difference stands in a table with its reason.

mod differences;
mod odd_answers;
mod play;

use std::thread;

use anyhow::ensure;
use vmcp_e2e::conforming;
use vmcp_external::{client, is_unavailable};

use crate::differences::unexplained;
use crate::play::OddServers;

/// The SDKs, and the programs that they require.
const SDKS: [(&str, &str); 4] = [
    ("python", "python"),
    ("typescript-v1", "conformance"),
    ("typescript-v2", "conformance"),
    ("go", "go"),
];

/// The outcomes of SDKs at odd servers are the same through the gateway, except for the differences in the table, and all of those exist.
/// Requests of the gateway conform to the specification for every response of a server.
#[test]
fn odd_servers_work_for_sdks_as_without_gateway() -> anyhow::Result<()> {
    let (servers, behind) = (OddServers::start()?, OddServers::start()?);
    let fronted = behind.gateways()?;
    let compare = |sdk: &'static str| -> anyhow::Result<Vec<String>> {
        let direct = servers.play(client::play(sdk)?)?;
        let through = OddServers::play_through(&fronted, client::play(sdk)?)?;
        unexplained(sdk, &direct, &through)
    };
    let here = SDKS.into_iter().filter(|(_, needs)| !is_unavailable(needs));
    // Installed one after the other, so that the output can be read.
    let here = here.map(|(sdk, _)| client::play(sdk).map(|_| sdk));
    let here: Vec<&'static str> = here.collect::<anyhow::Result<_>>()?;
    let mut wrong = thread::scope(|scope| {
        let comparing: Vec<_> = here
            .into_iter()
            .map(|sdk| scope.spawn(move || compare(sdk)))
            .collect();
        let mut wrong = Vec::new();
        for one in comparing {
            let lines = one.join().map_err(|_| anyhow::anyhow!("a comparison panicked"))?;
            wrong.extend(lines?);
        }
        anyhow::Ok(wrong)
    })?;
    wrong.extend(conforming::faults(&behind.received()));
    ensure!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    Ok(())
}

/// Each oddity has a name that is a backend's, too, and there are many.
#[test]
fn corpus_of_odd_servers_is_large() -> anyhow::Result<()> {
    let servers = odd_answers::odd_servers();
    ensure!(servers.len() >= 200, "{}", servers.len());
    Ok(())
}
