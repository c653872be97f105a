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

/// Length of the sliding window in which reopenings count.
const WINDOW: Duration = Duration::from_secs(60);
/// Maximum number of reopenings in the window.
const MAX_REOPENINGS: usize = 3;
/// Maximum number of pairs of session and backend. Beyond it old pairs are dropped, which at worst allows too many
/// reopenings.
const MAX_PAIRS: usize = 4096;

/// Recent reopenings. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct ReopenLimiter(Arc<Mutex<Times>>);

/// Times of the recent reopenings per session and backend.
type Times = HashMap<(RecordKey, String), VecDeque<Instant>>;

impl ReopenLimiter {
    /// Whether the session `key` may reopen at `backend`. If so, the reopening is counted.
    pub(in crate::session) fn try_acquire(&self, key: RecordKey, backend: &str) -> bool {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (key, backend.to_owned());
        if all.len() >= MAX_PAIRS && !all.contains_key(&pair) {
            all.retain(|_, times| times.back().is_some_and(|last| now - *last < WINDOW));
            if all.len() >= MAX_PAIRS {
                all.clear();
            }
        }
        let times = all.entry(pair).or_default();
        while times.front().is_some_and(|first| now - *first >= WINDOW) {
            times.pop_front();
        }
        if times.len() >= MAX_REOPENINGS {
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
    async fn fourth_reopening_within_the_window_is_refused() {
        // Each pair of session and backend gets three reopenings per minute.
        let limiter = ReopenLimiter::default();
        let key = RecordKey([1; 16]);
        for _ in 0..MAX_REOPENINGS {
            assert!(limiter.try_acquire(key, "a"));
        }
        assert!(!limiter.try_acquire(key, "a"));
        assert!(limiter.try_acquire(key, "b") && limiter.try_acquire(RecordKey([2; 16]), "a"));
        tokio::time::advance(WINDOW).await;
        assert!(limiter.try_acquire(key, "a"));
    }

    #[tokio::test]
    async fn reopen_limiter_memory_is_bounded() {
        // However many pairs reopen, at most `MAX_PAIRS` are kept.
        let limiter = ReopenLimiter::default();
        for number in 0..2 * MAX_PAIRS as u128 {
            assert!(limiter.try_acquire(RecordKey(number.to_be_bytes()), "a"));
        }
        assert!(limiter.0.lock().unwrap().len() <= MAX_PAIRS);
    }
}
