//! Whether a backend seems to have lists of its own for single sessions: then `/status` names the option for that.
//!
//! The sign is that it says in a client's session that a list has changed, and a look in the gateway's own session finds no change. A
//! server that tells every session of a change tells the gateway's own, too: a change that was found shortly before explains the rest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Backend;

/// For how long a change that was found explains that others hear of one.
const EXPLAINS: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct SessionListHint {
    times: Mutex<Times>,
    has_own_lists: AtomicBool,
}

#[derive(Debug, Default)]
struct Times {
    /// When a client's session heard of a change, since the last look.
    heard: Option<Instant>,
    /// When a look found one.
    found: Option<Instant>,
}

impl SessionListHint {
    fn heard(&self, now: Instant) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).heard = Some(now);
    }

    /// A look that began at `began` and ended at `now` found a change, or none.
    fn looked(&self, began: Instant, now: Instant, is_changed: bool) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if is_changed {
            times.found = Some(now);
        }
        // What is heard during a look leads to another one.
        let Some(heard) = times.heard.take_if(|heard| *heard <= began) else {
            return;
        };
        let is_explained = times.found.is_some_and(|found| found + EXPLAINS >= heard);
        if !is_explained {
            self.has_own_lists.store(true, Ordering::Relaxed);
        }
    }
}

impl Backend {
    /// Says that the backend has told a client's session that a list has changed.
    pub fn told_a_session_of_a_change(&self) {
        self.inner.session_list_hint.heard(Instant::now());
    }

    /// Says that a look in the gateway's own session, which began at `began`, found a change, or none.
    pub(crate) fn was_looked_at(&self, began: Instant, is_changed: bool) {
        self.inner
            .session_list_hint
            .looked(began, Instant::now(), is_changed);
    }

    /// Whether clients do not see what the backend lists to their own sessions, as far as it shows.
    #[must_use]
    pub fn hides_lists_of_sessions(&self) -> bool {
        !self.lists_per_session() && self.inner.session_list_hint.has_own_lists.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn change_that_only_a_session_hears_of_is_a_sign() {
        let second = Duration::from_secs(1);
        let start = Instant::now() + 100 * second;
        let has_own_lists = |heard, looks: &[(Duration, bool)]| {
            let hint = SessionListHint::default();
            hint.looked(start, start, false);
            for (at, is_changed) in looks {
                if *at >= heard {
                    hint.heard(start + heard);
                }
                hint.looked(start + *at, start + *at + second / 10, *is_changed);
            }
            hint.has_own_lists.load(Ordering::Relaxed)
        };
        assert!(has_own_lists(second, &[(2 * second, false)]));
        assert!(
            !has_own_lists(second, &[(2 * second, true)]),
            "everybody was told"
        );
        assert!(
            !has_own_lists(2 * second, &[(second, true), (3 * second, false)]),
            "the gateway was told first"
        );
        assert!(has_own_lists(
            20 * second,
            &[(second, true), (21 * second, false)]
        ));
        assert!(!has_own_lists(5 * second, &[(second, false)]), "nobody was told");
    }
}
