//! The scenarios: the measurements and their bounds.

mod calls;
mod comparison;
mod idle;
mod round;
mod sessions;
mod stdio;
mod wide;

use std::time::Duration;

use clap::ValueEnum;

use crate::cores::Cores;
use crate::metric::Metric;

/// A group of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Calls with small results: latency, throughput, CPU time
    Echo,
    /// Calls with results of 32 KiB: throughput, CPU time
    Large,
    /// Calls with an event stream as response: time to the first byte
    Stream,
    /// New sessions: throughput
    Initialize,
    /// 10,000 idle sessions: memory
    Idle,
    /// 150 backends with 10 tools each: the list of tools, and the first call to a backend
    Wide,
    /// A bridge, compared with the pipe of its server: calls, start, memory
    Stdio,
    /// Sessions in Redis, compared with sessions in memory: calls, new sessions, commands to Redis, memory
    Sessions,
    /// Sessions that are opened and abandoned for 600 times the duration of a measurement (ten minutes): memory
    Soak,
}

/// The settings of a run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The cores of the processes.
    pub cores: Cores,
    /// Number of repeats of each measurement; the median counts.
    pub repeats: usize,
    /// Duration of one measurement.
    pub duration: Duration,
}

impl Scenario {
    /// The scenarios that need no Redis and run by default.
    pub const BRIEF: &[Self] = &[
        Self::Echo,
        Self::Large,
        Self::Stream,
        Self::Initialize,
        Self::Idle,
        Self::Wide,
        Self::Stdio,
    ];

    /// Runs the scenario, and prints the progress to standard error.
    ///
    /// # Errors
    /// If a process does not start, or a response is invalid.
    pub async fn run(self, run: &Run) -> anyhow::Result<Vec<Metric>> {
        match self {
            Self::Echo => calls::echo(run).await,
            Self::Large => calls::large(run).await,
            Self::Stream => calls::stream(run).await,
            Self::Initialize => calls::initialize(run).await,
            Self::Idle => idle::idle(run).await,
            Self::Wide => wide::wide(run).await,
            Self::Stdio => stdio::stdio(run).await,
            Self::Sessions => sessions::sessions(run).await,
            Self::Soak => sessions::soak(run).await,
        }
    }
}
