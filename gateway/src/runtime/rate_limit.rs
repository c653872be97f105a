//! Rate limits with the generic cell rate algorithm (GCRA).
//!
//! For each subject, the limiter stores one instant: the theoretical arrival time of the next request, if all earlier ones had arrived
//! evenly. A request is rejected if that time is more than [`BURST`] ahead of the clock. The requests of one second may so arrive at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How far the theoretical arrival time may be ahead of the clock.
const BURST: Duration = Duration::from_secs(1);
/// Number of stored subjects from which the limiter looks for subjects within their rate, which need not be stored.
const SWEEP_AT: usize = 1024;
/// Shortest time between two sweeps.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);
/// Most stored subjects. While that many are ahead of their rate, requests of new subjects are rejected.
const MAX_SUBJECTS: usize = 64 * 1024;

/// A single rate limit for all requests.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    arrival: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// Counts a request and returns `true`, unless it exceeds the rate.
    pub(crate) fn allows(&self, per_second: u32) -> bool {
        let mut arrival = lock(&self.arrival);
        let next = next(*arrival, per_second, Instant::now());
        if let Some(next) = next {
            *arrival = Some(next);
        }
        next.is_some()
    }
}

/// A separate rate limit for each subject, such as a principal or a session.
#[derive(Debug)]
pub(crate) struct KeyedRateLimit<K> {
    state: Mutex<KeyedState<K>>,
}

#[derive(Debug)]
struct KeyedState<K> {
    arrivals: HashMap<K, Instant>,
    /// Number of subjects that starts the next sweep.
    sweep_at: usize,
    /// Earliest time of the next sweep, so that many new subjects do not cause a sweep each.
    next_sweep: Option<Instant>,
}

impl<K: Eq + Hash + Clone> KeyedRateLimit<K> {
    /// Counts a request of `subject` and returns `true`, unless it exceeds the rate.
    pub(crate) fn allows(&self, subject: &K, per_second: u32) -> bool {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if let Some(arrival) = state.arrivals.get_mut(subject) {
            let next = next(Some(*arrival), per_second, now);
            if let Some(next) = next {
                *arrival = next;
            }
            return next.is_some();
        }
        if state.arrivals.len() >= state.sweep_at && state.next_sweep.is_none_or(|next| now >= next) {
            state.arrivals.retain(|_, arrival| *arrival > now);
            state.sweep_at = (state.arrivals.len() * 2).clamp(SWEEP_AT, MAX_SUBJECTS);
            state.next_sweep = Some(now + SWEEP_PAUSE);
        }
        if state.arrivals.len() >= MAX_SUBJECTS {
            return false;
        }
        let first = next(None, per_second, now);
        if let Some(first) = first {
            state.arrivals.insert(subject.clone(), first);
        }
        first.is_some()
    }
}

impl<K> Default for KeyedRateLimit<K> {
    fn default() -> Self {
        Self {
            state: Mutex::new(KeyedState {
                arrivals: HashMap::new(),
                sweep_at: SWEEP_AT,
                next_sweep: None,
            }),
        }
    }
}

/// The theoretical arrival time after one more request. `None` if the request exceeds the rate.
fn next(arrival: Option<Instant>, per_second: u32, now: Instant) -> Option<Instant> {
    let step = Duration::from_secs(1) / per_second.max(1);
    let next = arrival.map_or(now, |arrival| arrival.max(now)) + step;
    (next.duration_since(now) <= BURST).then_some(next)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn burst_is_allowed_and_then_the_even_rate() {
        let rate = RateLimit::default();
        let burst = || (0..10).filter(|_| rate.allows(4)).count();
        assert_eq!(burst(), 4);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(burst(), 2);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(burst(), 4);
        // A higher rate applies to the time from now on.
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!((0..100).filter(|_| rate.allows(100)).count(), 25);
    }

    #[tokio::test(start_paused = true)]
    async fn subjects_have_separate_rates() {
        let rates = KeyedRateLimit::default();
        assert_eq!((0..10).filter(|_| rates.allows(&1, 4)).count(), 4);
        assert_eq!((0..10).filter(|_| rates.allows(&2, 4)).count(), 4);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!((0..10).filter(|_| rates.allows(&1, 4)).count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn only_subjects_ahead_of_their_rate_are_stored() {
        let rates = KeyedRateLimit::default();
        for round in 0..10 {
            for subject in 0..1000 {
                assert!(rates.allows(&(round, subject), 1));
            }
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        let stored = lock(&rates.state).arrivals.len();
        assert!(stored <= 2 * SWEEP_AT, "{stored}");
        for subject in 0..=MAX_SUBJECTS {
            rates.allows(&(10, subject), 1);
        }
        assert_eq!(lock(&rates.state).arrivals.len(), MAX_SUBJECTS);
        assert!(!rates.allows(&(11, 0), 1), "no room for another");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(rates.allows(&(11, 0), 1));
    }
}
