//! Growing pauses between the starts of a program that keeps ending.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::BackendError;
use crate::backend::transport::routed_stream::lock;

/// A process that ran for at least this time has not failed at its start.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// The pause after the second process in a row that failed at its start. Each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// When the next process may start.
#[derive(Debug, Default)]
pub(super) struct StartPauses(Mutex<Failures>);

#[derive(Debug, Default)]
struct Failures {
    /// The number of processes in a row that failed at their start.
    count: u32,
    next_start: Option<Instant>,
}

impl StartPauses {
    /// Whether a process may start now.
    ///
    /// # Errors
    /// During a pause.
    pub(super) fn check(&self) -> Result<(), BackendError> {
        let failures = lock(&self.0);
        let left = failures
            .next_start
            .map(|at| at.saturating_duration_since(Instant::now()));
        match left.filter(|left| !left.is_zero()) {
            None => Ok(()),
            Some(left) => Err(BackendError::Unreachable(format!(
                "{} of its processes in a row ended soon after their start; the next one may start in {:.1} s",
                failures.count,
                left.as_secs_f32()
            ))),
        }
    }

    /// Records that a process has ended by itself after `ran_for`.
    pub(super) fn note_exit(&self, ran_for: Duration) {
        let mut failures = lock(&self.0);
        if ran_for >= STABLE_AFTER {
            *failures = Failures::default();
            return;
        }
        if failures.count > 0 {
            let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.count - 1));
            failures.next_start = Some(Instant::now() + pause.min(MAX_PAUSE));
        }
        failures.count = failures.count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_a_process_is_stable() {
        let pauses = StartPauses::default();
        pauses.check().unwrap();
        pauses.note_exit(Duration::from_secs(1));
        pauses.check().unwrap();
        for expected in [250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000] {
            pauses.note_exit(Duration::from_secs(1));
            tokio::time::advance(Duration::from_millis(expected - 1)).await;
            let error = pauses.check().unwrap_err().to_string();
            assert!(error.contains("in a row ended soon after their start"), "{error}");
            tokio::time::advance(Duration::from_millis(1)).await;
            pauses.check().unwrap();
        }
        pauses.note_exit(Duration::from_secs(10));
        pauses.check().unwrap();
        pauses.note_exit(Duration::ZERO);
        pauses.check().unwrap();
        pauses.note_exit(Duration::ZERO);
        tokio::time::advance(FIRST_PAUSE).await;
        pauses.check().unwrap();
    }
}
