//! Polls a condition until a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

/// Calls `probe` twenty times a second until it returns a value.
///
/// # Errors
/// The first error of `probe`. If there is no value within `limit`, an error that names `what` was awaited.
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
