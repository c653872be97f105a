//! The same calls to the backend directly, through the floor, and through the gateway, in turns.
//!
//! They take turns ([`super::turn`]) within one run, so that whatever slows the machine for a while slows all three, and a figure is the
//! median of the ratios within a turn.

use std::fmt;

use anyhow::Context as _;

use super::Run;
use super::turn::{Contender, Done, turn};
use crate::figure::{Bound, Figure};
use crate::load::{self, Call, Target};
use crate::process::{Gateway, Program, Storage};
use crate::samples::median;

/// How much of the calls per second of the backend alone the floor has to reach. Where it does not, the load or the backend were
/// starved, and nothing can be said of what stands between them.
const LEAST_FLOOR: f64 = 0.45;

/// A backend, and what is put in front of it.
#[derive(Debug)]
pub(super) struct Comparison {
    places: [Place; 3],
    _backend: Program,
    _floor: Program,
    _gateway: Gateway,
}

/// One of them.
#[derive(Debug)]
struct Place {
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
        let place = |name, address, prefix, process| Place {
            name,
            target: Target { address, prefix },
            process,
        };
        Ok(Self {
            places: [
                place("direct", backend.addresses[0], "", backend.id()),
                place("floor", floor.addresses[0], "", floor.id()),
                place("gateway", gateway.mcp, "b0_", gateway.id()),
            ],
            _backend: backend,
            _floor: floor,
            _gateway: gateway,
        })
    }

    /// Calls with so many clients in a closed loop.
    pub(super) async fn measure(&self, run: &Run, call: Call, clients: usize) -> anyhow::Result<Vec<Turn>> {
        let [direct, floor, gateway] = &self.places;
        let mut contenders = [
            direct.connect(clients).await?,
            floor.connect(clients).await?,
            gateway.connect(clients).await?,
        ];
        let mut turns = Vec::new();
        for number in 1..=run.repeats {
            let [direct, floor, gateway] = turn(run, call, &mut contenders).await?.map(Measured::from);
            eprintln!(
                "    {number}/{}  {call:?}, {clients} clients: direct {direct}, floor {floor}, gateway {gateway}",
                run.repeats,
            );
            turns.push([direct, floor, gateway]);
        }
        Ok(turns)
    }
}

impl Place {
    async fn connect(&self, clients: usize) -> anyhow::Result<Contender> {
        let clients = load::connect(&self.target, clients).await;
        Ok(Contender {
            clients: clients.with_context(|| self.name)?,
            process: self.process,
        })
    }
}

impl From<Done> for Measured {
    fn from(Done { calls, cpu }: Done) -> Self {
        Self {
            rate: calls.rate(),
            p50: calls.latencies.percentile(50),
            p99: calls.latencies.percentile(99),
            cpu: cpu.as_secs_f64() * 1e6 / calls.latencies.len() as f64,
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, p50, p99, cpu } = self;
        write!(f, "{rate:.0}/s p50 {p50:.1} p99 {p99:.1} cpu {cpu:.1} us")
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
