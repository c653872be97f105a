//! The same calls to the backend directly, through the floor, and through the gateway, in turns.
//!
//! They take turns within one run, so that whatever slows the machine for a while slows all three, and a figure is the median of the
//! ratios within a turn.

use anyhow::Context as _;

use super::Run;
use crate::figure::{Bound, Figure};
use crate::load::{self, Call, Client, Target};
use crate::process::{self, Gateway, Program, Storage};
use crate::samples::median;

/// How much of the calls per second of the backend alone the floor has to reach. Where it does not, the load or the backend were
/// starved, and nothing can be said of what stands between them.
const LEAST_FLOOR: f64 = 0.45;

/// A backend, and what is put in front of it.
#[derive(Debug)]
pub(super) struct Comparison {
    contenders: [Contender; 3],
    _backend: Program,
    _floor: Program,
    _gateway: Gateway,
}

#[derive(Debug)]
struct Contender {
    name: &'static str,
    target: Target,
    process: u32,
}

/// What one contender did in one turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// Calls per second.
    pub(super) rate: f64,
    /// In microseconds.
    pub(super) p50: f64,
    /// In microseconds.
    pub(super) p99: f64,
    /// Processor time per call of the process that was called, in microseconds.
    pub(super) cpu: f64,
}

/// One turn: direct, floor, gateway.
pub(super) type Turn = [Measured; 3];

impl Comparison {
    pub(super) async fn start(run: &Run) -> anyhow::Result<Self> {
        let backend = Program::backends(run.cores, 1, 10)?;
        let floor = Program::floor(run.cores, backend.addresses[0])?;
        let mut gateway = Gateway::start(run.cores.measured, Storage::Memory, &backend.addresses, None)?;
        gateway.ready().await?;
        let contender = |name, address, prefix, process| Contender {
            name,
            target: Target { address, prefix },
            process,
        };
        Ok(Self {
            contenders: [
                contender("direct", backend.addresses[0], "", backend.id()),
                contender("floor", floor.addresses[0], "", floor.id()),
                contender("gateway", gateway.mcp, "b0_", gateway.id()),
            ],
            _backend: backend,
            _floor: floor,
            _gateway: gateway,
        })
    }

    /// Calls with so many clients in a closed loop.
    pub(super) async fn measure(&self, run: &Run, call: Call, clients: usize) -> anyhow::Result<Vec<Turn>> {
        let mut loads: Vec<Vec<Client>> = Vec::new();
        for contender in &self.contenders {
            loads.push(load::connect(&contender.target, clients).await?);
        }
        let mut turns = Vec::new();
        for turn in 1..=run.repeats {
            let mut measured = Vec::new();
            for (contender, clients) in self.contenders.iter().zip(&mut loads) {
                let one = contender.measure(run, call, clients).await;
                measured.push(one.with_context(|| format!("{call:?}, {}", contender.name))?);
            }
            let [direct, floor, gateway] = &*measured else {
                continue;
            };
            eprintln!(
                "    {turn}/{}  {call:?}, {clients} clients: direct {}, floor {}, gateway {}",
                run.repeats,
                direct.text(),
                floor.text(),
                gateway.text()
            );
            turns.push([*direct, *floor, *gateway]);
        }
        Ok(turns)
    }
}

impl Contender {
    async fn measure(&self, run: &Run, call: Call, clients: &mut Vec<Client>) -> anyhow::Result<Measured> {
        // Connections, caches and branch predictors are warm when it counts.
        load::closed_loop(clients, call, run.duration / 5).await?;
        let before = process::cpu(self.process)?;
        let outcome = load::closed_loop(clients, call, run.duration).await?;
        let used = process::cpu(self.process)?.saturating_sub(before);
        Ok(Measured {
            rate: outcome.rate(),
            p50: outcome.latencies.percentile(50),
            p99: outcome.latencies.percentile(99),
            cpu: used.as_secs_f64() * 1e6 / outcome.latencies.len() as f64,
        })
    }
}

impl Measured {
    fn text(&self) -> String {
        format!(
            "{:.0}/s p50 {:.1} p99 {:.1} cpu {:.1} us",
            self.rate, self.p50, self.p99, self.cpu
        )
    }
}

/// The median over the turns of what `read` makes of one.
fn over(turns: &[Turn], read: impl Fn(&Turn) -> f64) -> f64 {
    median(turns.iter().map(read))
}

fn parts(turns: &[Turn], read: fn(&Measured) -> f64, unit: &str) -> String {
    let [direct, floor, gateway] = [0, 1, 2].map(|place| over(turns, |turn| read(&turn[place])));
    format!("direct {direct:.1}, floor {floor:.1}, gateway {gateway:.1} {unit}")
}

/// How many times what the floor adds to the latency the gateway adds.
pub(super) fn added(name: &'static str, turns: &[Turn], at_most: f64) -> Figure {
    let ratio = over(turns, |[direct, floor, gateway]| {
        (gateway.p50 - direct.p50) / (floor.p50 - direct.p50)
    });
    let parts = parts(turns, |measured| measured.p50, "us p50");
    Figure::new(name, ratio, "of floor", Bound::AtMost(at_most), parts)
}

/// The gateway's calls per second over the floor's; and whether the run says anything at all.
pub(super) fn rates(names: [&'static str; 2], turns: &[Turn], at_least: f64) -> [Figure; 2] {
    let parts = || parts(turns, |measured| measured.rate, "calls/s");
    let floor = over(turns, |[direct, floor, _]| floor.rate / direct.rate);
    let gateway = over(turns, |[_, floor, gateway]| gateway.rate / floor.rate);
    [
        Figure::new(names[0], floor, "of direct", Bound::AtLeast(LEAST_FLOOR), parts()).voiding(),
        Figure::new(names[1], gateway, "of floor", Bound::AtLeast(at_least), parts()),
    ]
}

/// The gateway's processor time per call over the floor's.
pub(super) fn cpu(name: &'static str, turns: &[Turn], at_most: f64) -> Figure {
    let ratio = over(turns, |[_, floor, gateway]| gateway.cpu / floor.cpu);
    let parts = parts(turns, |measured| measured.cpu, "us/call");
    Figure::new(name, ratio, "of floor", Bound::AtMost(at_most), parts)
}
