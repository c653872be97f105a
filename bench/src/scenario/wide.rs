//! The cost of many backends.

use std::time::Instant;

use super::Run;
use crate::load::{Call, Client, Target};
use crate::metric::{Bound, Metric};
use crate::process::{Gateway, Program, Storage};
use crate::samples::{Samples, median};

const BACKENDS: usize = 150;
const TOOLS: usize = 10;
/// Number of requested lists in one round.
const LISTS: usize = 200;

pub(super) async fn wide(run: &Run) -> anyhow::Result<Vec<Metric>> {
    let backends = Program::backends(run.cores, BACKENDS, TOOLS)?;
    let mut gateway = Gateway::start(run.cores.measured, Storage::Memory, &backends.addresses, None)?;
    gateway.ready().await?;
    let target = |prefix| Target {
        address: gateway.mcp,
        prefix,
    };
    let (mut lists, mut p99, mut added) = (Vec::new(), Vec::new(), Vec::new());
    let mut client = Client::open(&target("b0_")).await?;
    client.call(Call::List).await?;
    for round in 1..=run.repeats {
        let mut latencies = Samples::default();
        for _ in 0..LISTS {
            latencies.add(client.call(Call::List).await?);
        }
        lists.push(latencies.percentile(50) / 1e3);
        p99.push(latencies.percentile(99) / 1e3);
        let (first, handshake) = first_calls(&target(""), &backends).await?;
        added.push(first - handshake);
        eprintln!(
            "    {round}/{}  tools/list p50 {:.2} ms; first call {first:.2} ms, the backend's own handshake and call {handshake:.2} ms",
            run.repeats,
            latencies.percentile(50) / 1e3
        );
    }
    Ok(vec![
        Metric::new(
            "wide_150_list_p50",
            median(lists),
            "ms",
            Bound::Below(3.0),
            format!(
                "{BACKENDS} backends with {TOOLS} tools each; p99 {:.2} ms",
                median(p99)
            ),
        ),
        Metric::new(
            "wide_150_first_call_added_p50",
            median(added),
            "ms",
            Bound::Below(5.0),
            "over the backend's own connection, handshake and call".to_owned(),
        ),
    ])
}

/// The medians, in milliseconds, of a session's first call to a backend through the gateway, and of the connection, the handshake and the
/// same call directly at that backend. One session calls each backend once.
async fn first_calls(gateway: &Target, backends: &Program) -> anyhow::Result<(f64, f64)> {
    let mut client = Client::open(gateway).await?;
    let (mut first, mut own) = (Samples::default(), Samples::default());
    for (place, address) in backends.addresses.iter().enumerate() {
        client.set_prefix(format!("b{place}_"));
        first.add(client.call(Call::Echo).await?);
        let target = Target {
            address: *address,
            prefix: "",
        };
        let started = Instant::now();
        Client::open(&target).await?.call(Call::Echo).await?;
        own.add(started.elapsed());
    }
    Ok((first.percentile(50) / 1e3, own.percentile(50) / 1e3))
}
