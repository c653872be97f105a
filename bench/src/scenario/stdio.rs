//! The cost of the bridge, compared with the same server asked over its pipe.

use std::time::{Duration, Instant};

use super::Run;
use super::idle::{MIB, settled};
use crate::cores;
use crate::load::{self, Call, Client, Outcome, PipeClient, Target};
use crate::metric::{Bound, Metric};
use crate::process::{self, Gateway, Program};
use crate::samples::median;

/// Number of pieces of a round, which alternate between the pipe and the bridge.
const PIECES: u32 = 6;
/// Duration of the warm-up before each piece, as a part of the piece.
const WARM_UP: f64 = 0.2;

/// Calls and their CPU time.
#[derive(Debug, Default)]
struct Measured {
    calls: Outcome,
    cpu: Duration,
}

impl Measured {
    fn p50(&self) -> f64 {
        self.calls.latencies.percentile(50)
    }

    /// CPU time per call in microseconds.
    fn cpu(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.calls.latencies.len() as f64
    }
}

pub(super) async fn stdio(run: &Run) -> anyhow::Result<Vec<Metric>> {
    let server = Program::on_standard_streams()?;
    let mut pipe = PipeClient::start(cores::on(run.cores.measured, &server)).await?;
    let mut starts = Vec::new();
    for _ in 0..run.repeats {
        let started = Instant::now();
        drop(Gateway::bridge(run.cores.measured, &server)?);
        starts.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let mut bridge = Gateway::bridge(run.cores.measured, &server)?;
    bridge.ready().await?;
    let idle = settled(bridge.id()).await? as f64 / MIB;
    let target = Target {
        address: bridge.mcp,
        prefix: "",
    };
    let mut clients = load::connect(&target, 1).await?;
    let (mut added, mut cpu) = (Vec::new(), Vec::new());
    for number in 1..=run.repeats {
        let (piped, bridged) = round(run, &mut pipe, &mut clients, bridge.id()).await?;
        eprintln!(
            "    {number}/{}  pipe p50 {:.1} cpu {:.1} us, bridge p50 {:.1} cpu {:.1} us",
            run.repeats,
            piped.p50(),
            piped.cpu(),
            bridged.p50(),
            bridged.cpu(),
        );
        added.push(bridged.p50() - piped.p50());
        cpu.push(bridged.cpu() / piped.cpu());
    }
    let metric = |name, value, unit, bound| Metric::new(name, value, unit, bound, String::new());
    Ok(vec![
        metric("stdio_1_added_p50", median(added), "us", Bound::AtMost(200.0)),
        metric("stdio_1_cpu", median(cpu), "of pipe", Bound::AtMost(1.6)),
        metric("bridge_start", median(starts), "ms", Bound::Below(50.0)),
        metric("bridge_idle_memory", idle, "MiB", Bound::Below(10.0)),
    ])
}

/// Calls over the pipe and over the bridge. The CPU time is that of both ends of the pipe: the client and the server, or the bridge and the
/// server.
async fn round(
    run: &Run,
    pipe: &mut PipeClient,
    clients: &mut Vec<Client>,
    bridge: u32,
) -> anyhow::Result<(Measured, Measured)> {
    let lasts = run.duration / PIECES;
    let (mut piped, mut bridged) = (Measured::default(), Measured::default());
    let this = std::process::id();
    for _ in 0..PIECES {
        pipe.closed_loop(Call::Echo, lasts.mul_f64(WARM_UP)).await?;
        let server = pipe.server()?;
        let used = || anyhow::Ok(process::cpu(this)? + process::cpu(server)?);
        let before = used()?;
        let calls = pipe.closed_loop(Call::Echo, lasts).await?;
        piped.cpu += used()?.saturating_sub(before);
        piped.calls.extend(&calls);

        load::closed_loop(clients, Call::Echo, lasts.mul_f64(WARM_UP)).await?;
        let before = process::cpu_of_tree(bridge)?;
        let calls = load::closed_loop(clients, Call::Echo, lasts).await?;
        bridged.cpu += process::cpu_of_tree(bridge)?.saturating_sub(before);
        bridged.calls.extend(&calls);
    }
    Ok((piped, bridged))
}
