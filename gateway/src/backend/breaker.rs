//! The circuit breaker of one backend.
//!
//! An unreachable backend costs each caller a deadline and the gateway the memory of the waiting calls. After some consecutive failures
//! the breaker opens, and calls fail fast. After the open time, or when discovery reaches the backend, it is half open: one trial call
//! goes through, and its outcome closes or reopens the breaker. A trial that takes longer than the open time may just be a long call, so
//! another trial goes through then.
//!
//! Invariant: `has_failures` is false only in the state closed with no failure. A call then costs one atomic load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

use super::BackendError;
use crate::config::BreakerSettings;

/// The most bytes of a failure reason that are kept.
const MAX_REASON_BYTES: usize = 300;

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls go through to the backend.
    Closed,
    /// One trial call goes through.
    HalfOpen,
    /// Calls fail without being sent.
    Open,
}

impl BreakerState {
    /// The label value in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Whether `shared` is anything but closed without a failure.
    has_failures: AtomicBool,
    shared: Mutex<BreakerCore>,
}

#[derive(Debug, Default)]
struct BreakerCore {
    settings: BreakerSettings,
    state: CircuitState,
    /// The reason of the last failure.
    reason: String,
}

#[derive(Clone, Copy, Debug)]
enum CircuitState {
    /// Calls go through. Counts the consecutive failures.
    Closed { failures: u32 },
    /// Calls fail fast until the given time.
    Open { until: Instant },
    /// A trial call is running since the given time.
    HalfOpen { since: Instant },
}

impl Default for CircuitState {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

/// The state change that a failure caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BreakerChange {
    /// No change to report.
    Nothing,
    /// The first failure in a row.
    First,
    /// The breaker has opened.
    Opened,
}

impl BreakerCore {
    /// Whether the next call is the trial; an error while the breaker is open.
    fn trial_is_due(&self, now: Instant) -> Result<bool, BackendError> {
        let from = match self.state {
            CircuitState::Closed { .. } => return Ok(false),
            CircuitState::Open { until } => until,
            CircuitState::HalfOpen { since } => since + self.settings.open_for,
        };
        if from <= now {
            return Ok(true);
        }
        Err(BackendError::CircuitOpen {
            reason: self.reason.clone(),
        })
    }
}

impl Breaker {
    pub(super) fn set(&self, settings: BreakerSettings) {
        let mut shared = self.lock();
        shared.settings = settings;
        if settings.failures == 0 {
            shared.state = CircuitState::default();
            self.has_failures.store(false, Ordering::Release);
        }
    }

    /// Checks whether a call would go through now.
    pub(super) fn check(&self) -> Result<(), BackendError> {
        if !self.has_failures.load(Ordering::Acquire) {
            return Ok(());
        }
        self.lock().trial_is_due(Instant::now()).map(drop)
    }

    /// Admits a call, and returns whether it is the trial.
    pub(super) fn admit(&self) -> Result<bool, BackendError> {
        if !self.has_failures.load(Ordering::Acquire) {
            return Ok(false);
        }
        let now = Instant::now();
        let mut shared = self.lock();
        let is_trial = shared.trial_is_due(now)?;
        if is_trial {
            shared.state = CircuitState::HalfOpen { since: now };
        }
        Ok(is_trial)
    }

    /// Records a response. Returns whether it closed the breaker.
    pub(super) fn answered(&self) -> bool {
        if !self.has_failures.load(Ordering::Acquire) {
            return false;
        }
        let mut shared = self.lock();
        let was_closed = matches!(shared.state, CircuitState::Closed { .. });
        shared.state = CircuitState::default();
        self.has_failures.store(false, Ordering::Release);
        !was_closed
    }

    /// Records a failed call.
    pub(super) fn failed(&self, reason: &str) -> BreakerChange {
        let mut shared = self.lock();
        let settings = shared.settings;
        if settings.failures == 0 {
            return BreakerChange::Nothing;
        }
        self.has_failures.store(true, Ordering::Release);
        crate::runtime::truncate::head(reason, MAX_REASON_BYTES).clone_into(&mut shared.reason);
        let (failures, was_closed) = match shared.state {
            CircuitState::Closed { failures } => (failures.saturating_add(1), true),
            // This call started before the breaker opened.
            CircuitState::Open { .. } => return BreakerChange::Nothing,
            CircuitState::HalfOpen { .. } => (settings.failures, false),
        };
        if failures < settings.failures {
            shared.state = CircuitState::Closed { failures };
            return if failures == 1 {
                BreakerChange::First
            } else {
                BreakerChange::Nothing
            };
        }
        shared.state = CircuitState::Open {
            until: Instant::now() + settings.open_for,
        };
        if was_closed {
            BreakerChange::Opened
        } else {
            BreakerChange::Nothing
        }
    }

    /// Records that the trial ended without an outcome, so the next call is the trial.
    pub(super) fn trial_ended(&self) {
        let mut shared = self.lock();
        if matches!(shared.state, CircuitState::HalfOpen { .. }) {
            shared.state = CircuitState::Open {
                until: Instant::now(),
            };
        }
    }

    /// Records that the backend is reachable again, so the next call is the trial.
    pub(super) fn mark_recovered(&self) {
        if !self.has_failures.load(Ordering::Acquire) {
            return;
        }
        let mut shared = self.lock();
        if let CircuitState::Open { until } = &mut shared.state {
            *until = Instant::now();
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        if !self.has_failures.load(Ordering::Acquire) {
            return BreakerState::Closed;
        }
        match self.lock().state {
            CircuitState::Closed { .. } => BreakerState::Closed,
            CircuitState::Open { until } if until > Instant::now() => BreakerState::Open,
            CircuitState::Open { .. } | CircuitState::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BreakerCore> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(10);

    fn breaker(failures: u32) -> Breaker {
        let breaker = Breaker::default();
        breaker.set(BreakerSettings {
            failures,
            open_for: OPEN_FOR,
        });
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn breaker_opens_after_consecutive_failures() {
        // The breaker opens after consecutive failures; a response in between restarts the count.
        let breaker = breaker(3);
        assert_eq!(breaker.failed("x"), BreakerChange::First);
        assert_eq!(breaker.failed("x"), BreakerChange::Nothing);
        assert!(!breaker.answered(), "it was not open");
        assert_eq!(breaker.failed("x"), BreakerChange::First);
        assert_eq!(breaker.failed("x"), BreakerChange::Nothing);
        assert_eq!(breaker.admit(), Ok(false));
        assert_eq!(breaker.failed("is away"), BreakerChange::Opened);
        assert_eq!(breaker.state(), BreakerState::Open);
        let refused = breaker.admit().unwrap_err();
        assert!(
            refused.is_retry_safe() && refused.to_string().contains("is away"),
            "{refused}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_trial_at_a_time_closes_or_reopens_breaker() {
        let breaker = breaker(1);
        breaker.failed("x");
        tokio::time::advance(OPEN_FOR).await;
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert_eq!(breaker.admit(), Ok(true));
        assert!(breaker.admit().is_err(), "a second trial");
        breaker.failed("x");
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(breaker.admit().is_err());
        tokio::time::advance(OPEN_FOR).await;
        assert_eq!(breaker.admit(), Ok(true));
        assert!(breaker.answered());
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(breaker.admit(), Ok(false));
    }

    #[tokio::test(start_paused = true)]
    async fn unfinished_trial_does_not_block_the_next_trial() {
        // A trial without an outcome, or a long one, does not keep the breaker open.
        let breaker = breaker(1);
        breaker.failed("x");
        tokio::time::advance(OPEN_FOR).await;
        assert_eq!(breaker.admit(), Ok(true));
        breaker.trial_ended();
        assert_eq!(breaker.admit(), Ok(true));
        tokio::time::advance(OPEN_FOR).await;
        assert_eq!(breaker.admit(), Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn recovered_backend_gets_a_trial_call() {
        // Recovery lets the trial through and does not close the breaker by itself.
        let breaker = breaker(1);
        breaker.failed("x");
        breaker.mark_recovered();
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert_eq!(breaker.admit(), Ok(true));
        breaker.failed("x");
        assert!(breaker.admit().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn open_breaker_can_be_turned_off() {
        let breaker = breaker(1);
        breaker.failed("x");
        breaker.set(BreakerSettings {
            failures: 0,
            open_for: OPEN_FOR,
        });
        assert_eq!(breaker.admit(), Ok(false));
        assert_eq!(breaker.failed("x"), BreakerChange::Nothing);
        assert_eq!(breaker.admit(), Ok(false));
    }
}
