//! Compares the same calls to the backend directly, through the baseline, and through the gateway.
//!
//! The calls alternate in rounds ([`crate::scenario::round`]) within one run, so that temporary load on the machine slows down all three. A
//! metric is the median of the ratios within the rounds.

use std::fmt;

use anyhow::Context as _;

use super::Run;
use crate::load::{self, Call, Target};
use crate::metric::{Bound, Metric};
use crate::process::{Gateway, Program, Storage};
use crate::samples::median;
use crate::scenario::round::{RoundResult, RoundTarget, round};

/// The part of the backend's own calls per second that the baseline must reach. Otherwise the load or the backend was starved of CPU time,
/// and the comparison is meaningless.
const MIN_BASELINE_RATE: f64 = 0.45;

/// A backend, a baseline and a gateway for it.
#[derive(Debug)]
pub(super) struct Comparison {
    targets: [ComparedTarget; 3],
    _backend: Program,
    _baseline: Program,
    _gateway: Gateway,
}

/// The backend, the baseline or the gateway.
#[derive(Debug)]
struct ComparedTarget {
    name: &'static str,
    target: Target,
    process: u32,
}

/// The measured values of one target in one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// Calls per second.
    pub(super) rate: f64,
    /// Median latency in microseconds.
    pub(super) p50: f64,
    /// 99th percentile of the latency in microseconds.
    pub(super) p99: f64,
    /// CPU time per call of the called process, in microseconds.
    pub(super) cpu: f64,
}

/// One round: the backend itself, the baseline, the gateway.
pub(super) type Round = [Measured; 3];

impl Comparison {
    pub(super) async fn start(run: &Run) -> anyhow::Result<Self> {
        let backend = Program::backends(run.cores, 1, 10)?;
        let baseline = Program::baseline(run.cores, backend.addresses[0])?;
        let mut gateway = Gateway::start(run.cores.measured, Storage::Memory, &backend.addresses, None)?;
        gateway.ready().await?;
        let target = |name, address, prefix, process| ComparedTarget {
            name,
            target: Target { address, prefix },
            process,
        };
        Ok(Self {
            targets: [
                target("direct", backend.addresses[0], "", backend.id()),
                target("baseline", baseline.addresses[0], "", baseline.id()),
                target("gateway", gateway.mcp, "b0_", gateway.id()),
            ],
            _backend: backend,
            _baseline: baseline,
            _gateway: gateway,
        })
    }

    /// Measures calls with `clients` clients in a closed loop.
    pub(super) async fn measure(&self, run: &Run, call: Call, clients: usize) -> anyhow::Result<Vec<Round>> {
        let [direct, baseline, gateway] = &self.targets;
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

impl ComparedTarget {
    async fn connect(&self, clients: usize) -> anyhow::Result<RoundTarget> {
        let clients = load::connect(&self.target, clients).await;
        Ok(RoundTarget {
            clients: clients.with_context(|| self.name)?,
            process: self.process,
        })
    }
}

impl From<RoundResult> for Measured {
    fn from(RoundResult { calls, cpu }: RoundResult) -> Self {
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

/// The median of `read` over the rounds.
fn over(rounds: &[Round], read: impl Fn(&Round) -> f64) -> f64 {
    median(rounds.iter().map(read))
}

fn parts(rounds: &[Round], read: fn(&Measured) -> f64, unit: &str) -> String {
    let [direct, baseline, gateway] = [0, 1, 2].map(|place| over(rounds, |round| read(&round[place])));
    format!("direct {direct:.1}, baseline {baseline:.1}, gateway {gateway:.1} {unit}")
}

/// The latency that the gateway adds, divided by the latency that the baseline adds.
pub(super) fn added(name: &'static str, rounds: &[Round], at_most: f64) -> Metric {
    let ratio = over(rounds, |[direct, baseline, gateway]| {
        (gateway.p50 - direct.p50) / (baseline.p50 - direct.p50)
    });
    let parts = parts(rounds, |measured| measured.p50, "us p50");
    Metric::new(name, ratio, "of baseline", Bound::AtMost(at_most), parts)
}

/// The gateway's calls per second divided by the baseline's, and the metric that invalidates the run.
pub(super) fn rates(names: [&'static str; 2], rounds: &[Round], at_least: f64) -> [Metric; 2] {
    let parts = || parts(rounds, |measured| measured.rate, "calls/s");
    let baseline = over(rounds, |[direct, baseline, _]| baseline.rate / direct.rate);
    let gateway = over(rounds, |[_, baseline, gateway]| gateway.rate / baseline.rate);
    [
        Metric::new(
            names[0],
            baseline,
            "of direct",
            Bound::AtLeast(MIN_BASELINE_RATE),
            parts(),
        )
        .invalidating(),
        Metric::new(
            names[1],
            gateway,
            "of baseline",
            Bound::AtLeast(at_least),
            parts(),
        ),
    ]
}

/// The gateway's CPU time per call divided by the baseline's.
pub(super) fn cpu(name: &'static str, rounds: &[Round], at_most: f64) -> Metric {
    let ratio = over(rounds, |[_, baseline, gateway]| gateway.cpu / baseline.cpu);
    let parts = parts(rounds, |measured| measured.cpu, "us/call");
    Metric::new(name, ratio, "of baseline", Bound::AtMost(at_most), parts)
}
