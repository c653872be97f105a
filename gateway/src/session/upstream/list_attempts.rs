//! How the attempts to list backends in one session went, so that a backend that hangs does not delay what others have.
//!
//! A failed attempt is remembered until the list is known. In between the list is asked for again after a pause, which doubles from
//! [`FIRST_PAUSE`] to [`LONGEST_PAUSE`].

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::ListKind;
use crate::config::BackendName;

/// The pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The attempts in one session.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<BTreeMap<BackendName, [Attempt; ListKind::ALL.len()]>>);

/// The attempts at one list.
#[derive(Clone, Copy, Debug, Default)]
struct Attempt {
    /// When the one began that is running.
    running: Option<Instant>,
    failed: Option<Failed>,
}

/// The last attempt failed.
#[derive(Clone, Copy, Debug)]
struct Failed {
    at: Instant,
    pause: Duration,
}

impl Attempt {
    fn fail(&mut self) {
        let is_noted = |failed: &Failed| self.running.is_some_and(|began| failed.at > began);
        if self.failed.as_ref().is_some_and(is_noted) {
            return;
        }
        let doubled = |failed: Failed| (failed.pause * 2).min(LONGEST_PAUSE);
        self.failed = Some(Failed {
            at: Instant::now(),
            pause: self.failed.map_or(FIRST_PAUSE, doubled),
        });
    }
}

impl Attempts {
    /// Whether an attempt at any list of `backend` has failed that is not known yet.
    pub(super) fn has_failed(&self, backend: &BackendName) -> bool {
        let attempts = self.lock();
        let lists = attempts.get(backend);
        lists.is_some_and(|lists| lists.iter().any(|attempt| attempt.failed.is_some()))
    }

    /// When the attempt began that is running.
    pub(super) fn running_since(&self, backend: &BackendName, kind: ListKind) -> Option<Instant> {
        let attempts = self.lock();
        attempts.get(backend)?.get(kind as usize)?.running
    }

    /// Whether the list is to be asked for again in the background. Says so once in a pause.
    pub(super) fn begin_again(&self, backend: &BackendName, kind: ListKind) -> bool {
        let now = Instant::now();
        self.with(backend, kind, |attempt| {
            let pause = attempt.failed.map_or(FIRST_PAUSE, |failed| failed.pause);
            let is_due = attempt
                .failed
                .is_none_or(|failed| now >= failed.at + failed.pause);
            let begins = is_due && attempt.running.is_none();
            if begins {
                attempt.failed = Some(Failed { at: now, pause });
            }
            begins
        })
    }

    /// An attempt begins.
    pub(super) fn begin(&self, backend: &BackendName, kind: ListKind) {
        self.with(backend, kind, |attempt| attempt.running = Some(Instant::now()));
    }

    /// An attempt ends.
    pub(super) fn end(&self, backend: &BackendName, kind: ListKind, is_known: bool) {
        self.with(backend, kind, |attempt| {
            if is_known {
                attempt.failed = None;
            } else {
                attempt.fail();
            }
            attempt.running = None;
        });
    }

    /// A request has waited for the list in vain.
    pub(super) fn is_late(&self, backend: &BackendName, kind: ListKind) {
        self.with(backend, kind, |attempt| {
            // One that has ended meanwhile has said how.
            if attempt.running.is_some() {
                attempt.fail();
            }
        });
    }

    fn with<T>(&self, backend: &BackendName, kind: ListKind, act: impl FnOnce(&mut Attempt) -> T) -> T {
        let mut attempts = self.lock();
        let lists = attempts.entry(backend.clone()).or_default();
        // There is a place for each kind.
        let mut other = Attempt::default();
        act(lists.get_mut(kind as usize).unwrap_or(&mut other))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BackendName, [Attempt; ListKind::ALL.len()]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn failed_list_is_asked_for_again_after_growing_pauses() {
        let (attempts, backend) = (Attempts::default(), BackendName::for_test("a"));
        let mut pauses = Vec::new();
        for _ in 0..7 {
            attempts.begin(&backend, ListKind::Tools);
            tokio::time::advance(MOMENT).await;
            // Two requests wait for it, and it fails: that is one failure.
            attempts.is_late(&backend, ListKind::Tools);
            attempts.is_late(&backend, ListKind::Tools);
            attempts.end(&backend, ListKind::Tools, false);
            let failed = Instant::now();
            while !attempts.begin_again(&backend, ListKind::Tools) {
                tokio::time::advance(Duration::from_millis(500)).await;
            }
            assert!(
                !attempts.begin_again(&backend, ListKind::Tools),
                "once in a pause"
            );
            pauses.push(failed.elapsed().as_secs());
            tokio::time::advance(MOMENT).await;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        attempts.begin(&backend, ListKind::Tools);
        attempts.is_late(&backend, ListKind::Tools);
        tokio::time::advance(LONGEST_PAUSE).await;
        assert!(!attempts.begin_again(&backend, ListKind::Tools), "it is running");
        attempts.end(&backend, ListKind::Tools, true);
        assert!(!attempts.has_failed(&backend));
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_list_failure_counts_as_backend_failure() {
        let (attempts, backend) = (Attempts::default(), BackendName::for_test("a"));
        attempts.begin(&backend, ListKind::Resources);
        assert_eq!(
            attempts.running_since(&backend, ListKind::Resources),
            Some(Instant::now())
        );
        attempts.end(&backend, ListKind::Resources, false);
        assert!(attempts.has_failed(&backend) && !attempts.has_failed(&BackendName::for_test("b")));
        assert!(
            attempts.begin_again(&backend, ListKind::Tools),
            "that one was not asked for"
        );
        attempts.end(&backend, ListKind::Tools, true);
        assert!(attempts.has_failed(&backend));
        attempts.is_late(&backend, ListKind::Resources);
        attempts.end(&backend, ListKind::Resources, true);
        assert!(!attempts.has_failed(&backend));
    }
}
