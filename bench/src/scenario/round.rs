//! One round of a comparison: each target is called for as long as one measurement takes.
//!
//! A machine is faster at one moment than at the next. So that this concerns all targets alike, each is called in short pieces, one
//! after the other, in one order and then in the other.

use std::time::Duration;

use super::Run;
use crate::load::{self, Call, Client, Outcome};
use crate::process;

/// In how many pieces.
const PIECES: u32 = 6;
/// How much of a piece passes before it counts: connections, caches and branch predictors are warm then.
const WARM_UP: f64 = 0.2;

/// Who is called.
#[derive(Debug)]
pub(super) struct RoundTarget {
    /// The clients, each with its own connection to it.
    pub(super) clients: Vec<Client>,
    /// The process whose processor time counts.
    pub(super) process: u32,
}

/// What one target did in one round.
#[derive(Clone, Debug, Default)]
pub(super) struct Done {
    pub(super) calls: Outcome,
    /// The processor time that its process used.
    pub(super) cpu: Duration,
}

/// Calls all targets; what they did is in their order.
pub(super) async fn round<const N: usize>(
    run: &Run,
    call: Call,
    targets: &mut [RoundTarget; N],
) -> anyhow::Result<[Done; N]> {
    let lasts = run.duration / PIECES;
    let mut done = std::array::from_fn(|_| Done::default());
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
