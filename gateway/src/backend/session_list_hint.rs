//! Detects whether a backend has different lists for each session. `/status` then names the option `catalog: perSession`.
//!
//! The sign: the backend notifies a client's session of a changed list, and the list in the gateway's own session has not changed. A
//! server that notifies all sessions also notifies the gateway's, so a change found shortly before explains the notification.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Backend;

/// How long a found change explains notifications to clients.
const EXPLANATION_WINDOW: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct SessionListHint {
    times: Mutex<Times>,
    has_own_lists: AtomicBool,
}

#[derive(Debug, Default)]
struct Times {
    /// The last notification to a client's session, since the last check.
    notified: Option<Instant>,
    /// When a check last found a change.
    found: Option<Instant>,
}

impl SessionListHint {
    fn on_notification(&self, now: Instant) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).notified = Some(now);
    }

    /// Records a check from `began` to `now`, and whether it found a change.
    fn on_check(&self, began: Instant, now: Instant, is_changed: bool) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if is_changed {
            times.found = Some(now);
        }
        // A notification during a check leads to another check.
        let Some(notified) = times.notified.take_if(|notified| *notified <= began) else {
            return;
        };
        let is_explained = times
            .found
            .is_some_and(|found| found + EXPLANATION_WINDOW >= notified);
        if !is_explained {
            self.has_own_lists.store(true, Ordering::Relaxed);
        }
    }
}

impl Backend {
    /// Records that the backend notified a client's session of a changed list.
    pub fn note_client_list_change(&self) {
        self.inner.session_list_hint.on_notification(Instant::now());
    }

    /// Records a check of the lists in the gateway's own session that started at `began`.
    pub(crate) fn note_list_check(&self, began: Instant, is_changed: bool) {
        self.inner
            .session_list_hint
            .on_check(began, Instant::now(), is_changed);
    }

    /// Whether the backend seems to have lists per session that clients do not see.
    #[must_use]
    pub fn has_hidden_session_lists(&self) -> bool {
        !self.lists_per_session() && self.inner.session_list_hint.has_own_lists.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn change_in_a_client_session_only_sets_the_hint() {
        let second = Duration::from_secs(1);
        let start = Instant::now() + 100 * second;
        let has_own_lists = |notified_at, checks: &[(Duration, bool)]| {
            let hint = SessionListHint::default();
            hint.on_check(start, start, false);
            for (at, is_changed) in checks {
                if *at >= notified_at {
                    hint.on_notification(start + notified_at);
                }
                hint.on_check(start + *at, start + *at + second / 10, *is_changed);
            }
            hint.has_own_lists.load(Ordering::Relaxed)
        };
        assert!(has_own_lists(second, &[(2 * second, false)]));
        assert!(
            !has_own_lists(second, &[(2 * second, true)]),
            "all sessions were notified"
        );
        assert!(
            !has_own_lists(2 * second, &[(second, true), (3 * second, false)]),
            "the gateway was notified first"
        );
        assert!(has_own_lists(
            20 * second,
            &[(second, true), (21 * second, false)]
        ));
        assert!(
            !has_own_lists(5 * second, &[(second, false)]),
            "no client was notified"
        );
    }
}
