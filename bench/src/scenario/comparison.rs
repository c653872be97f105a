//! The same calls to the backend directly, through the baseline, and through the gateway, in rounds.
//!
//! They take rounds ([`crate::scenario::round`]) within one run, so that whatever slows the machine for a while slows all three, and a metric is the
//! median of the ratios within a round.

use std::fmt;

use anyhow::Context as _;

use super::Run;
use crate::load::{self, Call, Target};
use crate::metric::{Bound, Metric};
use crate::process::{Gateway, Program, Storage};
use crate::samples::median;
use crate::scenario::round::{Done, RoundTarget, round};

/// How much of the calls per second of the backend alone the baseline has to reach. Where it does not, the load or the backend were
/// starved, and nothing can be said of what stands between them.
const LEAST_FLOOR: f64 = 0.45;

/// A backend, and what is put in front of it.
#[derive(Debug)]
pub(super) struct Comparison {
    places: [Place; 3],
    _backend: Program,
    _baseline: Program,
    _gateway: Gateway,
}

/// One of them.
#[derive(Debug)]
struct Place {
    name: &'static str,
    target: Target,
    process: u32,
}

/// What one target did in one round.
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

/// One round: direct, baseline, gateway.
pub(super) type Round = [Measured; 3];

impl Comparison {
    pub(super) async fn start(run: &Run) -> anyhow::Result<Self> {
        let backend = Program::backends(run.cores, 1, 10)?;
        let baseline = Program::baseline(run.cores, backend.addresses[0])?;
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
                place("baseline", baseline.addresses[0], "", baseline.id()),
                place("gateway", gateway.mcp, "b0_", gateway.id()),
            ],
            _backend: backend,
            _baseline: baseline,
            _gateway: gateway,
        })
    }

    /// Calls with so many clients in a closed loop.
    pub(super) async fn measure(&self, run: &Run, call: Call, clients: usize) -> anyhow::Result<Vec<Round>> {
        let [direct, baseline, gateway] = &self.places;
        let mut targets = [
            direct.connect(clients).await?,
            baseline.connect(clients).await?,
            gateway.connect(clients).await?,
        ];
        let mut rounds = Vec::new();
        for number in 1..=run.repeats {
            let [direct, baseline, gateway] = round(run, call, &mut targets).await?.map(Measured::from);
            eprintln!(
                "    {number}/{}  {call:?}, {clients} clients: direct {direct}, baseline {baseline}, gateway {gateway}",
                run.repeats,
            );
            rounds.push([direct, baseline, gateway]);
        }
        Ok(rounds)
    }
}

impl Place {
    async fn connect(&self, clients: usize) -> anyhow::Result<RoundTarget> {
        let clients = load::connect(&self.target, clients).await;
        Ok(RoundTarget {
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

/// The median over the rounds of what `read` makes of one.
fn over(rounds: &[Round], read: impl Fn(&Round) -> f64) -> f64 {
    median(rounds.iter().map(read))
}

fn parts(rounds: &[Round], read: fn(&Measured) -> f64, unit: &str) -> String {
    let [direct, baseline, gateway] = [0, 1, 2].map(|place| over(rounds, |round| read(&round[place])));
    format!("direct {direct:.1}, baseline {baseline:.1}, gateway {gateway:.1} {unit}")
}

/// How many times what the baseline adds to the latency the gateway adds.
pub(super) fn added(name: &'static str, rounds: &[Round], at_most: f64) -> Metric {
    let ratio = over(rounds, |[direct, baseline, gateway]| {
        (gateway.p50 - direct.p50) / (baseline.p50 - direct.p50)
    });
    let parts = parts(rounds, |measured| measured.p50, "us p50");
    Metric::new(name, ratio, "of baseline", Bound::AtMost(at_most), parts)
}

/// The gateway's calls per second over the baseline's; and whether the run says anything at all.
pub(super) fn rates(names: [&'static str; 2], rounds: &[Round], at_least: f64) -> [Metric; 2] {
    let parts = || parts(rounds, |measured| measured.rate, "calls/s");
    let baseline = over(rounds, |[direct, baseline, _]| baseline.rate / direct.rate);
    let gateway = over(rounds, |[_, baseline, gateway]| gateway.rate / baseline.rate);
    [
        Metric::new(
            names[0],
            baseline,
            "of direct",
            Bound::AtLeast(LEAST_FLOOR),
            parts(),
        )
        .voiding(),
        Metric::new(
            names[1],
            gateway,
            "of baseline",
            Bound::AtLeast(at_least),
            parts(),
        ),
    ]
}

/// The gateway's processor time per call over the baseline's.
pub(super) fn cpu(name: &'static str, rounds: &[Round], at_most: f64) -> Metric {
    let ratio = over(rounds, |[_, baseline, gateway]| gateway.cpu / baseline.cpu);
    let parts = parts(rounds, |measured| measured.cpu, "us/call");
    Metric::new(name, ratio, "of baseline", Bound::AtMost(at_most), parts)
}
