//! Rates: so many in a second, of which all may come at once. The generic cell rate algorithm (GCRA): of each subject one instant is
//! kept, at which everything that it has sent so far would have arrived had it arrived evenly.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How far a subject may be ahead of its rate: what it may send in this time may come at once.
const BURST: Duration = Duration::from_secs(1);
/// How many subjects are kept before those are looked for that are not ahead of their rate, and need not be kept.
const SWEEP_AT: usize = 1024;
/// The least time between two sweeps.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);
/// How many subjects are kept at most. While so many are ahead of their rates, those that are new are refused.
const MAX_SUBJECTS: usize = 64 * 1024;

/// One rate for all.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    arrival: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// Counts one more, unless there were too many of late.
    pub(crate) fn allows(&self, per_second: u32) -> bool {
        let mut arrival = lock(&self.arrival);
        let next = next(*arrival, per_second, Instant::now());
        if let Some(next) = next {
            *arrival = Some(next);
        }
        next.is_some()
    }
}

/// A rate for each subject, such as a principal or a session.
#[derive(Debug)]
pub(crate) struct KeyedRateLimit<K> {
    kept: Mutex<Kept<K>>,
}

#[derive(Debug)]
struct Kept<K> {
    arrivals: HashMap<K, Instant>,
    /// When there are so many, those are forgotten that need not be kept.
    sweep_at: usize,
    /// Not sooner than this, so that a sweep costs little of what it is done for.
    next_sweep: Option<Instant>,
}

impl<K: Eq + Hash + Clone> KeyedRateLimit<K> {
    /// Counts one more of `subject`, unless there were too many of late.
    pub(crate) fn allows(&self, subject: &K, per_second: u32) -> bool {
        let now = Instant::now();
        let mut kept = lock(&self.kept);
        if let Some(arrival) = kept.arrivals.get_mut(subject) {
            let next = next(Some(*arrival), per_second, now);
            if let Some(next) = next {
                *arrival = next;
            }
            return next.is_some();
        }
        if kept.arrivals.len() >= kept.sweep_at && kept.next_sweep.is_none_or(|next| now >= next) {
            kept.arrivals.retain(|_, arrival| *arrival > now);
            kept.sweep_at = (kept.arrivals.len() * 2).clamp(SWEEP_AT, MAX_SUBJECTS);
            kept.next_sweep = Some(now + SWEEP_PAUSE);
        }
        if kept.arrivals.len() >= MAX_SUBJECTS {
            return false;
        }
        let first = next(None, per_second, now);
        if let Some(first) = first {
            kept.arrivals.insert(subject.clone(), first);
        }
        first.is_some()
    }
}

impl<K> Default for KeyedRateLimit<K> {
    fn default() -> Self {
        Self {
            kept: Mutex::new(Kept {
                arrivals: HashMap::new(),
                sweep_at: SWEEP_AT,
                next_sweep: None,
            }),
        }
    }
}

/// The theoretical arrival time after one more; `None` when it is too early for that.
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
    async fn so_many_come_at_once_and_then_evenly() {
        let rate = RateLimit::default();
        let burst = || (0..10).filter(|_| rate.allows(4)).count();
        assert_eq!(burst(), 4);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(burst(), 2);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(burst(), 4);
        // A rate that is raised holds for the time that passes from then on.
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!((0..100).filter(|_| rate.allows(100)).count(), 25);
    }

    #[tokio::test(start_paused = true)]
    async fn subject_beyond_its_rate_takes_nothing_of_another() {
        let rates = KeyedRateLimit::default();
        assert_eq!((0..10).filter(|_| rates.allows(&1, 4)).count(), 4);
        assert_eq!((0..10).filter(|_| rates.allows(&2, 4)).count(), 4);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!((0..10).filter(|_| rates.allows(&1, 4)).count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn only_subjects_ahead_of_their_rates_are_kept() {
        let rates = KeyedRateLimit::default();
        for round in 0..10 {
            for subject in 0..1000 {
                assert!(rates.allows(&(round, subject), 1));
            }
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        let kept = lock(&rates.kept).arrivals.len();
        assert!(kept <= 2 * SWEEP_AT, "{kept}");
        for subject in 0..=MAX_SUBJECTS {
            rates.allows(&(10, subject), 1);
        }
        assert_eq!(lock(&rates.kept).arrivals.len(), MAX_SUBJECTS);
        assert!(!rates.allows(&(11, 0), 1), "no room for another");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(rates.allows(&(11, 0), 1));
    }
}
