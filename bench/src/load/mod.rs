//! The load: MCP clients, each with a connection of its own that it keeps, and how they call.
//!
//! In a closed loop each client calls again as soon as it has its answer, which finds out how much goes through. In an open loop calls
//! begin at fixed moments whether or not the ones before have ended, and latency counts from that moment, so that a stall is not hidden
//! by the calls that it kept from being made.
//!
//! Every answer is looked at: it has the call's own text, and its whole length. One that does not ends the run.

mod client;
mod connection;
mod message;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::try_join_all;
use tokio::task::JoinSet;

use crate::samples::Samples;

pub use client::Client;
pub use connection::get;
pub use message::Call;

/// Where calls go.
#[derive(Clone, Debug)]
pub struct Target {
    /// The endpoint.
    pub address: SocketAddr,
    /// What stands in front of the names of the backend's tools.
    pub prefix: &'static str,
}

/// What came of calls.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How long each took.
    pub latencies: Samples,
    /// How long all took together.
    pub elapsed: Duration,
}

impl Outcome {
    /// Calls per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Adds the calls of `other`, which came after these.
    pub fn extend(&mut self, other: &Self) {
        self.latencies.extend(&other.latencies);
        self.elapsed += other.elapsed;
    }
}

/// Opens `count` sessions at `target`.
///
/// # Errors
/// When one does not open.
pub async fn connect(target: &Target, count: usize) -> anyhow::Result<Vec<Client>> {
    try_join_all((0..count).map(|_| Client::open(target))).await
}

/// Calls with all `clients` at once, each again as soon as it has its answer, for `duration`.
///
/// # Errors
/// When a call fails.
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

/// Does `what` `rate` times a second for `duration`, at moments that are fixed beforehand. At most `limit` run at a time, and one that
/// has to wait for its turn is late. The argument is the number of the moment.
///
/// # Errors
/// When one fails.
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
