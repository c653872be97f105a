//! Attempts to get the lists of backends for one session, so that a backend that hangs does not delay calls to others.
//!
//! An attempt that fails is recorded until the list is known. Meanwhile the list is requested again in the background,
//! with exponential backoff from [`FIRST_PAUSE`] to [`LONGEST_PAUSE`].

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::ListKind;
use crate::config::BackendName;

/// Pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Upper limit of the pause, which doubles with each failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The attempts of one session, by backend and kind of list.
#[derive(Debug, Default)]
pub(in crate::session) struct ListAttempts(Mutex<BTreeMap<BackendName, [Attempt; ListKind::ALL.len()]>>);

/// The attempts at one list of one backend.
#[derive(Clone, Copy, Debug, Default)]
struct Attempt {
    /// When the running attempt began.
    running: Option<Instant>,
    failed: Option<Failed>,
}

/// When the last attempt failed, and the pause before the next one.
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

impl ListAttempts {
    /// Whether a list of `backend` is unknown because the last attempt at it failed.
    pub(in crate::session) fn has_failed(&self, backend: &BackendName) -> bool {
        let attempts = self.lock();
        let lists = attempts.get(backend);
        lists.is_some_and(|lists| lists.iter().any(|attempt| attempt.failed.is_some()))
    }

    /// When the running attempt began, if one is running.
    pub(in crate::session) fn running_since(&self, backend: &BackendName, kind: ListKind) -> Option<Instant> {
        let attempts = self.lock();
        attempts.get(backend)?.get(kind as usize)?.running
    }

    /// Whether the list should be requested again in the background. Returns `true` once per pause.
    pub(in crate::session) fn begin_again(&self, backend: &BackendName, kind: ListKind) -> bool {
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

    /// Records that an attempt begins.
    pub(in crate::session) fn begin(&self, backend: &BackendName, kind: ListKind) {
        self.with(backend, kind, |attempt| attempt.running = Some(Instant::now()));
    }

    /// Records that an attempt has ended, and whether the list is known now.
    pub(in crate::session) fn end(&self, backend: &BackendName, kind: ListKind, is_known: bool) {
        self.with(backend, kind, |attempt| {
            if is_known {
                attempt.failed = None;
            } else {
                attempt.fail();
            }
            attempt.running = None;
        });
    }

    /// Records that a request has waited for the list in vain.
    pub(in crate::session) fn record_timeout(&self, backend: &BackendName, kind: ListKind) {
        self.with(backend, kind, |attempt| {
            // An attempt that has ended meanwhile has recorded its own outcome.
            if attempt.running.is_some() {
                attempt.fail();
            }
        });
    }

    fn with<T>(&self, backend: &BackendName, kind: ListKind, act: impl FnOnce(&mut Attempt) -> T) -> T {
        let mut attempts = self.lock();
        let lists = attempts.entry(backend.clone()).or_default();
        // The array has an element for each kind, so `other` is never used.
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
    async fn failed_list_is_requested_again_after_growing_pauses() {
        let (attempts, backend) = (ListAttempts::default(), BackendName::for_test("a"));
        let mut pauses = Vec::new();
        for _ in 0..7 {
            attempts.begin(&backend, ListKind::Tools);
            tokio::time::advance(MOMENT).await;
            // Two requests wait for it, and it fails: that is one failure.
            attempts.record_timeout(&backend, ListKind::Tools);
            attempts.record_timeout(&backend, ListKind::Tools);
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
        attempts.record_timeout(&backend, ListKind::Tools);
        tokio::time::advance(LONGEST_PAUSE).await;
        assert!(!attempts.begin_again(&backend, ListKind::Tools), "it is running");
        attempts.end(&backend, ListKind::Tools, true);
        assert!(!attempts.has_failed(&backend));
    }

    #[tokio::test(start_paused = true)]
    async fn failed_list_marks_its_backend_until_it_is_known() {
        let (attempts, backend) = (ListAttempts::default(), BackendName::for_test("a"));
        attempts.begin(&backend, ListKind::Resources);
        assert_eq!(
            attempts.running_since(&backend, ListKind::Resources),
            Some(Instant::now())
        );
        attempts.end(&backend, ListKind::Resources, false);
        assert!(attempts.has_failed(&backend) && !attempts.has_failed(&BackendName::for_test("b")));
        assert!(
            attempts.begin_again(&backend, ListKind::Tools),
            "that list was not requested"
        );
        attempts.end(&backend, ListKind::Tools, true);
        assert!(attempts.has_failed(&backend));
        attempts.record_timeout(&backend, ListKind::Resources);
        attempts.end(&backend, ListKind::Resources, true);
        assert!(!attempts.has_failed(&backend));
    }
}
