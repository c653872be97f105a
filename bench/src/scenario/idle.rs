//! The memory of idle sessions.

use std::time::Duration;

use futures::future::try_join_all;

use super::Run;
use crate::load::{self, Call, Target};
use crate::metric::{Bound, Metric};
use crate::process::{self, Gateway, Program, Storage};

/// Number of idle sessions.
pub(super) const SESSIONS: usize = 10_000;
pub(super) const CLIENTS: usize = 20;
pub(super) const MIB: f64 = 1024.0 * 1024.0;

pub(super) async fn idle(run: &Run) -> anyhow::Result<Vec<Metric>> {
    let backend = Program::backends(run.cores, 1, 10)?;
    let mut gateway = Gateway::start(run.cores.measured, Storage::Memory, &backend.addresses, None)?;
    gateway.ready().await?;
    let before = process::resident(gateway.id())?;
    let target = Target {
        address: gateway.mcp,
        prefix: "b0_",
    };
    open(&target, SESSIONS).await?;
    let after = settled(gateway.id()).await?;
    let grown = (after as f64 - before as f64) / MIB;
    let parts = format!("from {:.1} to {:.1} MiB", before as f64 / MIB, after as f64 / MIB);
    eprintln!("    {SESSIONS} sessions, each with one call behind it: {parts}");
    Ok(vec![Metric::new(
        "idle_10000_memory",
        grown,
        "MiB",
        Bound::Below(40.0),
        parts,
    )])
}

/// Opens `sessions` sessions, makes one call in each to open its upstream session, and closes all connections.
pub(super) async fn open(target: &Target, sessions: usize) -> anyhow::Result<()> {
    let clients = load::connect(target, CLIENTS).await?;
    let each = clients.into_iter().map(|mut client| async move {
        client.call(Call::Echo).await?;
        for _ in 1..sessions / CLIENTS {
            client.open_another().await?;
            client.call(Call::Echo).await?;
        }
        Ok::<_, anyhow::Error>(())
    });
    try_join_all(each).await.map(drop)
}

/// Waits until the memory of the process no longer changes, and returns it in bytes.
pub(super) async fn settled(process: u32) -> anyhow::Result<u64> {
    let mut last = process::resident(process)?;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = process::resident(process)?;
        if now.abs_diff(last) < 64 * 1024 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}
