//! One round of a comparison: calls to each target for the duration of one measurement.
//!
//! The speed of a machine varies over time. Each target is therefore called in short pieces that alternate between the targets, in
//! forward and in reverse order, so that the variation affects all targets equally.

use std::time::Duration;

use super::Run;
use crate::load::{self, Call, Client, Outcome};
use crate::process;

/// Number of pieces for each target.
const PIECES: u32 = 6;
/// Duration of the warm-up before each piece, as a part of the piece. It warms connections, caches and branch predictors.
const WARM_UP: f64 = 0.2;

/// A target of a round.
#[derive(Debug)]
pub(super) struct RoundTarget {
    /// The clients, each with its own connection to the target.
    pub(super) clients: Vec<Client>,
    /// The process whose CPU time is measured.
    pub(super) process: u32,
}

/// The result of one target in one round.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundResult {
    pub(super) calls: Outcome,
    /// The CPU time of its process.
    pub(super) cpu: Duration,
}

/// Calls all targets. The results are in the order of the targets.
pub(super) async fn round<const N: usize>(
    run: &Run,
    call: Call,
    targets: &mut [RoundTarget; N],
) -> anyhow::Result<[RoundResult; N]> {
    let lasts = run.duration / PIECES;
    let mut done = std::array::from_fn(|_| RoundResult::default());
    for piece in 0..PIECES {
        for place in 0..N {
            let place = if piece % 2 == 0 { place } else { N - 1 - place };
            let target = &mut targets[place];
            load::closed_loop(&mut target.clients, call, lasts.mul_f64(WARM_UP)).await?;
            let before = process::cpu(target.process)?;
            let calls = load::closed_loop(&mut target.clients, call, lasts).await?;
            done[place].cpu += process::cpu(target.process)?.saturating_sub(before);
            done[place].calls.extend(&calls);
        }
    }
    Ok(done)
}
