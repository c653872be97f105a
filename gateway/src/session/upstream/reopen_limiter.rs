//! Sliding-window limit on reopening upstream sessions that a backend has lost.
//!
//! A backend that spreads one session's requests over replicas without shared state loses the session with every
//! call. Each reopening succeeds, and discards the state of the previous one. Beyond the limit the call fails
//! instead, and the backend is reported as `needsAffinity`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::session::record::RecordKey;

/// The sliding window.
const WITHIN: Duration = Duration::from_secs(60);
/// Maximum number of reopenings in the window.
const AT_MOST: usize = 3;
/// Maximum number of pairs of session and backend. Beyond it old pairs are dropped, which at worst allows too many
/// reopenings.
const PAIRS: usize = 4096;

/// Recent reopenings. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct ReopenLimiter(Arc<Mutex<Times>>);

/// Times of the recent reopenings per session and backend.
type Times = HashMap<(RecordKey, String), VecDeque<Instant>>;

impl ReopenLimiter {
    /// Whether the session `key` may reopen at `backend`. If so, the reopening is counted.
    pub(in crate::session) fn begin(&self, key: RecordKey, backend: &str) -> bool {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (key, backend.to_owned());
        if all.len() >= PAIRS && !all.contains_key(&pair) {
            all.retain(|_, times| times.back().is_some_and(|last| now - *last < WITHIN));
            if all.len() >= PAIRS {
                all.clear();
            }
        }
        let times = all.entry(pair).or_default();
        while times.front().is_some_and(|first| now - *first >= WITHIN) {
            times.pop_front();
        }
        if times.len() >= AT_MOST {
            return false;
        }
        times.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn three_repairs_a_minute_are_enough_for_one_session_at_one_backend() {
        let repairs = ReopenLimiter::default();
        let key = RecordKey([1; 16]);
        for _ in 0..AT_MOST {
            assert!(repairs.begin(key, "a"));
        }
        assert!(!repairs.begin(key, "a"));
        assert!(repairs.begin(key, "b") && repairs.begin(RecordKey([2; 16]), "a"));
        tokio::time::advance(WITHIN).await;
        assert!(repairs.begin(key, "a"));
    }

    #[tokio::test]
    async fn what_is_looked_after_is_bounded() {
        let repairs = ReopenLimiter::default();
        for number in 0..2 * PAIRS as u128 {
            assert!(repairs.begin(RecordKey(number.to_be_bytes()), "a"));
        }
        assert!(repairs.0.lock().unwrap().len() <= PAIRS);
    }
}
