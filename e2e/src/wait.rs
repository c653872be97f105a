//! Waits for a condition, with a limit.

use std::time::{Duration, Instant};

use anyhow::bail;

const POLL: Duration = Duration::from_millis(10);

/// Repeats `question` until it succeeds.
///
/// # Errors
/// If it does not succeed within `limit`. The message has `what` and the last error.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut question: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        match question() {
            Ok(answer) => return Ok(answer),
            Err(error) if started.elapsed() > limit => bail!("{what}: not within {limit:?}: {error:#}"),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}
