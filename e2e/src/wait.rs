//! Waiting for something to become true, with a limit.

use std::time::{Duration, Instant};

use anyhow::bail;

const POLL: Duration = Duration::from_millis(10);

/// Asks `question` until it has an answer.
///
/// # Errors
/// When there is none within `limit`; `what` says what was waited for, and the last error why it was not there.
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
