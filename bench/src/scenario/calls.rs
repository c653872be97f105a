//! The cost that the gateway adds to calls, compared with the cost that a bare proxy adds.

use super::Run;
use super::comparison::{Comparison, added, cpu, rates};
use crate::load::Call;
use crate::metric::Metric;

pub(super) async fn echo(run: &Run) -> anyhow::Result<Vec<Metric>> {
    let comparison = Comparison::start(run).await?;
    let one = comparison.measure(run, Call::Echo, 1).await?;
    let many = comparison.measure(run, Call::Echo, 32).await?;
    let mut metrics = vec![added("echo_1_added_p50", &one, 1.6)];
    metrics.extend(rates(["echo_32_baseline_rate", "echo_32_rate"], &many, 0.75));
    metrics.push(cpu("echo_32_cpu", &many, 1.6));
    Ok(metrics)
}

pub(super) async fn large(run: &Run) -> anyhow::Result<Vec<Metric>> {
    let comparison = Comparison::start(run).await?;
    let many = comparison.measure(run, Call::Large, 32).await?;
    let some = comparison.measure(run, Call::Large, 8).await?;
    let mut metrics = rates(["large_32_baseline_rate", "large_32_rate"], &many, 0.8).to_vec();
    metrics.push(cpu("large_8_cpu", &some, 1.4));
    Ok(metrics)
}

pub(super) async fn stream(run: &Run) -> anyhow::Result<Vec<Metric>> {
    let comparison = Comparison::start(run).await?;
    let one = comparison.measure(run, Call::Stream, 1).await?;
    Ok(vec![added("stream_1_added_first_byte", &one, 2.0)])
}

pub(super) async fn initialize(run: &Run) -> anyhow::Result<Vec<Metric>> {
    let comparison = Comparison::start(run).await?;
    let many = comparison.measure(run, Call::Initialize, 32).await?;
    Ok(rates(["initialize_32_baseline_rate", "initialize_32_rate"], &many, 0.5).to_vec())
}
