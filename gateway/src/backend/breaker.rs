//! The circuit breaker of one backend.
//!
//! A backend that cannot be reached costs every caller a deadline, and costs the gateway what it holds for them meanwhile. After some
//! failures in a row the breaker opens, and calls are refused at once. When it has been open for a while, or the
//! backend has come back, it is half open: one call is let through, and its outcome closes the breaker or opens it again. A trial that takes
//! longer than the breaker stays open may just be a long call, so that then another one is let through.
//!
//! While nothing is wrong, a call costs one atomic load here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

use super::BackendError;
use crate::config::BreakerSettings;

/// How much of a reason is kept.
const MAX_REASON: usize = 300;

/// Whether calls are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// They are.
    Closed,
    /// One is.
    HalfOpen,
    /// They are refused.
    Open,
}

impl BreakerState {
    /// The name in metrics.
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
    /// Whether `shared` says anything but closed and no failure.
    troubled: AtomicBool,
    shared: Mutex<BreakerCore>,
}

#[derive(Debug, Default)]
struct BreakerCore {
    settings: BreakerSettings,
    position: Position,
    /// The last failure.
    reason: String,
}

#[derive(Clone, Copy, Debug)]
enum Position {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { since: Instant },
}

impl Default for Position {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

/// What a failure has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BreakerChange {
    /// Nothing that anybody has to know.
    Nothing,
    /// It is the first one in a row.
    First,
    /// The breaker has opened.
    Opened,
}

impl BreakerCore {
    /// Whether the next call is the trial; an error when none is let through.
    fn trial_is_due(&self, now: Instant) -> Result<bool, BackendError> {
        let from = match self.position {
            Position::Closed { .. } => return Ok(false),
            Position::Open { until } => until,
            Position::HalfOpen { since } => since + self.settings.open_for,
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
            shared.position = Position::default();
            self.troubled.store(false, Ordering::Release);
        }
    }

    /// Whether a call would be let through now.
    pub(super) fn check(&self) -> Result<(), BackendError> {
        if !self.troubled.load(Ordering::Acquire) {
            return Ok(());
        }
        self.lock().trial_is_due(Instant::now()).map(drop)
    }

    /// Lets a call through, and says whether it is the trial.
    pub(super) fn admit(&self) -> Result<bool, BackendError> {
        if !self.troubled.load(Ordering::Acquire) {
            return Ok(false);
        }
        let now = Instant::now();
        let mut shared = self.lock();
        let is_trial = shared.trial_is_due(now)?;
        if is_trial {
            shared.position = Position::HalfOpen { since: now };
        }
        Ok(is_trial)
    }

    /// A call had an answer. Says whether that closed the breaker.
    pub(super) fn answered(&self) -> bool {
        if !self.troubled.load(Ordering::Acquire) {
            return false;
        }
        let mut shared = self.lock();
        let was_closed = matches!(shared.position, Position::Closed { .. });
        shared.position = Position::default();
        self.troubled.store(false, Ordering::Release);
        !was_closed
    }

    /// A call had no answer, for `reason`.
    pub(super) fn failed(&self, reason: &str) -> BreakerChange {
        let mut shared = self.lock();
        let settings = shared.settings;
        if settings.failures == 0 {
            return BreakerChange::Nothing;
        }
        self.troubled.store(true, Ordering::Release);
        crate::runtime::truncate::head(reason, MAX_REASON).clone_into(&mut shared.reason);
        let (failures, was_closed) = match shared.position {
            Position::Closed { failures } => (failures.saturating_add(1), true),
            // One that began before the breaker opened.
            Position::Open { .. } => return BreakerChange::Nothing,
            Position::HalfOpen { .. } => (settings.failures, false),
        };
        if failures < settings.failures {
            shared.position = Position::Closed { failures };
            return if failures == 1 {
                BreakerChange::First
            } else {
                BreakerChange::Nothing
            };
        }
        shared.position = Position::Open {
            until: Instant::now() + settings.open_for,
        };
        if was_closed {
            BreakerChange::Opened
        } else {
            BreakerChange::Nothing
        }
    }

    /// The trial ended without an outcome: the next call is the trial.
    pub(super) fn trial_ended(&self) {
        let mut shared = self.lock();
        if matches!(shared.position, Position::HalfOpen { .. }) {
            shared.position = Position::Open {
                until: Instant::now(),
            };
        }
    }

    /// The backend has come back: the next call is the trial.
    pub(super) fn came_back(&self) {
        if !self.troubled.load(Ordering::Acquire) {
            return;
        }
        let mut shared = self.lock();
        if let Position::Open { until } = &mut shared.position {
            *until = Instant::now();
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        if !self.troubled.load(Ordering::Acquire) {
            return BreakerState::Closed;
        }
        match self.lock().position {
            Position::Closed { .. } => BreakerState::Closed,
            Position::Open { until } if until > Instant::now() => BreakerState::Open,
            Position::Open { .. } | Position::HalfOpen { .. } => BreakerState::HalfOpen,
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
    async fn it_opens_after_failures_in_a_row_and_one_answer_between_them_starts_anew() {
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
    async fn one_trial_at_a_time_closes_it_or_opens_it_again() {
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
    async fn a_trial_without_an_outcome_or_a_long_one_does_not_keep_it_shut() {
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
    async fn a_backend_that_comes_back_lets_the_trial_through_and_closes_nothing_by_itself() {
        let breaker = breaker(1);
        breaker.failed("x");
        breaker.came_back();
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert_eq!(breaker.admit(), Ok(true));
        breaker.failed("x");
        assert!(breaker.admit().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn it_can_be_turned_off_also_while_it_is_open() {
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
