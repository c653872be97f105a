//! Waiting, with an end.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

/// Asks `probe` until it has an answer, twenty times a second.
///
/// # Errors
/// Those of `probe`, at once; and when there is no answer within `limit`, a message that names `what` was awaited.
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    }
}
