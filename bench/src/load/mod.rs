//! The load: MCP clients with one persistent connection each, and the loops in which they call.
//!
//! In a closed loop, each client calls again as soon as it has its response, which measures the throughput. In an open loop, calls start at
//! fixed times even if earlier ones have not ended. Their latency counts from that time, so that a stall is not hidden by delayed calls
//! (coordinated omission).
//!
//! Every response is checked for the text of its call and its full length. An invalid response ends the run.

mod client;
mod connection;
mod message;
mod pipe;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::try_join_all;
use tokio::task::JoinSet;

use crate::samples::Samples;

pub use client::Client;
pub use connection::get;
pub use message::Call;
pub use pipe::PipeClient;

/// The server that a client calls.
#[derive(Clone, Debug)]
pub struct Target {
    /// Address of the endpoint.
    pub address: SocketAddr,
    /// Prefix of the tool names.
    pub prefix: &'static str,
}

/// The result of a number of calls.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Latency of each call.
    pub latencies: Samples,
    /// Duration of the whole measurement.
    pub elapsed: Duration,
}

impl Outcome {
    /// The throughput in calls per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Adds the calls of `other`, a later measurement.
    pub fn extend(&mut self, other: &Self) {
        self.latencies.extend(&other.latencies);
        self.elapsed += other.elapsed;
    }
}

/// Opens `count` sessions at `target`.
///
/// # Errors
/// If one cannot be opened.
pub async fn connect(target: &Target, count: usize) -> anyhow::Result<Vec<Client>> {
    try_join_all((0..count).map(|_| Client::open(target))).await
}

/// Calls with all `clients` concurrently in a closed loop for `duration`.
///
/// # Errors
/// If a call fails.
pub async fn closed_loop(
    clients: &mut Vec<Client>,
    call: Call,
    duration: Duration,
) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let mut running = JoinSet::new();
    for mut client in clients.drain(..) {
        running.spawn(async move {
            let mut latencies = Samples::default();
            while started.elapsed() < duration {
                latencies.add(client.call(call).await?);
            }
            Ok::<_, anyhow::Error>((client, latencies))
        });
    }
    let mut latencies = Samples::default();
    while let Some(ended) = running.join_next().await {
        let (client, one) = ended.context("a client failed")??;
        clients.push(client);
        latencies.extend(&one);
    }
    Ok(Outcome {
        latencies,
        elapsed: started.elapsed(),
    })
}

/// Runs `what` in an open loop, `rate` times a second for `duration`. At most `limit` run concurrently; the wait for a free slot counts as
/// latency. The argument of `what` is the number of the call.
///
/// # Errors
/// If one fails.
pub async fn open_loop<F>(
    rate: f64,
    duration: Duration,
    limit: usize,
    mut what: impl FnMut(usize) -> F,
) -> anyhow::Result<Outcome>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let started = Instant::now();
    let mut latencies = Samples::default();
    let mut running = JoinSet::new();
    for number in 0.. {
        let due = Duration::from_secs_f64(number as f64 / rate);
        if due >= duration {
            break;
        }
        tokio::time::sleep_until((started + due).into()).await;
        while running.len() >= limit {
            take(&mut running, &mut latencies).await?;
        }
        while let Some(ended) = running.try_join_next() {
            latencies.add(ended.context("a call failed")??);
        }
        let doing = what(number);
        running.spawn(async move {
            doing.await?;
            Ok::<_, anyhow::Error>(started.elapsed().saturating_sub(due))
        });
    }
    while !running.is_empty() {
        take(&mut running, &mut latencies).await?;
    }
    Ok(Outcome {
        latencies,
        elapsed: started.elapsed(),
    })
}

async fn take(
    running: &mut JoinSet<anyhow::Result<Duration>>,
    latencies: &mut Samples,
) -> anyhow::Result<()> {
    if let Some(ended) = running.join_next().await {
        latencies.add(ended.context("a call failed")??);
    }
    Ok(())
}
