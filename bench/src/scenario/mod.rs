//! The scenarios: what is measured, and what it is held against.

mod calls;
mod comparison;
mod idle;
mod round;
mod sessions;
mod wide;

use std::time::Duration;

use clap::ValueEnum;

use crate::cores::Cores;
use crate::metric::Metric;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Calls with small results: latency, throughput, processor time
    Echo,
    /// Calls with results of 32 KiB: throughput, processor time
    Large,
    /// Calls that are answered in a stream of events: time to the first byte
    Stream,
    /// New sessions: throughput
    Initialize,
    /// 10,000 sessions that nobody uses: memory
    Idle,
    /// 150 backends with 10 tools each: the list of tools, and the first call to a backend
    Wide,
    /// Sessions in Redis beside sessions in memory: calls, new sessions, what Redis is asked, memory
    Sessions,
    /// 600 times as long as one measurement, ten minutes, sessions are opened and abandoned: memory
    Soak,
}

/// How a run is done.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Who runs where.
    pub cores: Cores,
    /// How often each measurement is repeated; the median counts.
    pub repeats: usize,
    /// How long one measurement takes.
    pub duration: Duration,
}

impl Scenario {
    /// Those that need no Redis.
    pub const BRIEF: &[Self] = &[
        Self::Echo,
        Self::Large,
        Self::Stream,
        Self::Initialize,
        Self::Idle,
        Self::Wide,
    ];

    /// Measures, and says on standard error what it is doing.
    ///
    /// # Errors
    /// When something does not start, or answers wrongly.
    pub async fn run(self, run: &Run) -> anyhow::Result<Vec<Metric>> {
        match self {
            Self::Echo => calls::echo(run).await,
            Self::Large => calls::large(run).await,
            Self::Stream => calls::stream(run).await,
            Self::Initialize => calls::initialize(run).await,
            Self::Idle => idle::idle(run).await,
            Self::Wide => wide::wide(run).await,
            Self::Sessions => sessions::sessions(run).await,
            Self::Soak => sessions::soak(run).await,
        }
    }
}
