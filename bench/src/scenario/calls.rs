//! Calls: what the gateway adds to them, beside what a bare proxy adds.

use super::Run;
use super::comparison::{Comparison, added, cpu, rates};
use crate::figure::Figure;
use crate::load::Call;

pub(super) async fn echo(run: &Run) -> anyhow::Result<Vec<Figure>> {
    let comparison = Comparison::start(run).await?;
    let one = comparison.measure(run, Call::Echo, 1).await?;
    let many = comparison.measure(run, Call::Echo, 32).await?;
    let mut figures = vec![added("echo_1_added_p50", &one, 1.6)];
    figures.extend(rates(["echo_32_floor_rate", "echo_32_rate"], &many, 0.75));
    figures.push(cpu("echo_32_cpu", &many, 1.6));
    Ok(figures)
}

pub(super) async fn large(run: &Run) -> anyhow::Result<Vec<Figure>> {
    let comparison = Comparison::start(run).await?;
    let many = comparison.measure(run, Call::Large, 32).await?;
    let some = comparison.measure(run, Call::Large, 8).await?;
    let mut figures = rates(["large_32_floor_rate", "large_32_rate"], &many, 0.8).to_vec();
    figures.push(cpu("large_8_cpu", &some, 1.4));
    Ok(figures)
}

pub(super) async fn stream(run: &Run) -> anyhow::Result<Vec<Figure>> {
    let comparison = Comparison::start(run).await?;
    let one = comparison.measure(run, Call::Stream, 1).await?;
    Ok(vec![added("stream_1_added_first_byte", &one, 2.0)])
}

pub(super) async fn initialize(run: &Run) -> anyhow::Result<Vec<Figure>> {
    let comparison = Comparison::start(run).await?;
    let many = comparison.measure(run, Call::Initialize, 32).await?;
    Ok(rates(["initialize_32_floor_rate", "initialize_32_rate"], &many, 0.5).to_vec())
}
