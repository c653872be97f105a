//! Who may call a backend now: the breaker and the places, and what they learn from each call.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use super::breaker::{Breaker, BreakerChange, BreakerState};
use super::{Backend, BackendError};
use crate::backend::concurrency::ConcurrencyLimit;
use crate::config::ResilienceSettings;
use crate::telemetry::metrics::{BackendMetrics, CallOutcome};

/// A caller that waited so long for an answer, and went away without one, has met a backend that does not answer. Clients have
/// deadlines of their own, which are mostly shorter than the gateway's.
const ABANDONED_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct BackendAdmission {
    breaker: Breaker,
    slots: ConcurrencyLimit,
    in_flight: AtomicUsize,
    /// Says that calls have begun to fail.
    trouble: Notify,
    metrics: OnceLock<BackendMetrics>,
}

/// A call that may be sent. It has a place at its backend until this is dropped, which is when its answer has come whole.
#[derive(Debug)]
pub struct CallPermit {
    backend: Backend,
    began: Instant,
    is_trial: bool,
    settled: bool,
    _place: OwnedSemaphorePermit,
}

impl BackendAdmission {
    /// Whether a call would be refused now because the breaker is open.
    pub(super) fn would_refuse(&self) -> Result<(), BackendError> {
        self.breaker.check()
    }
}

impl Backend {
    /// Takes new settings. Calls that run go on.
    pub fn isolate(&self, settings: &ResilienceSettings) {
        self.inner.admission.breaker.set(settings.breaker);
        self.inner.admission.slots.set(settings.concurrency);
    }

    /// Asks whether a call may be sent now; it waits for a place as long as the settings say. Whoever gets one says what came of the
    /// call.
    ///
    /// # Errors
    /// [`BackendError::Open`] and [`BackendError::Full`]. Nothing was sent then.
    pub async fn admit(&self) -> Result<CallPermit, BackendError> {
        let admission = &self.inner.admission;
        let blocked = |_: &BackendError| self.count(CallOutcome::Blocked);
        // Who is refused anyway need not wait for a place.
        admission.breaker.check().inspect_err(blocked)?;
        let place = admission.slots.acquire().await;
        let place = place.inspect_err(|_| self.count(CallOutcome::Overloaded))?;
        let is_trial = admission.breaker.admit().inspect_err(blocked)?;
        admission.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(CallPermit {
            backend: self.clone(),
            began: Instant::now(),
            is_trial,
            settled: false,
            _place: place,
        })
    }

    /// How many calls run here now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner.admission.in_flight.load(Ordering::Relaxed)
    }

    /// Whether calls are let through.
    #[must_use]
    pub fn breaker(&self) -> BreakerState {
        self.inner.admission.breaker.state()
    }

    /// Counts calls in `metrics` from now on.
    pub fn measure(&self, metrics: BackendMetrics) {
        // Whoever made the backend does this once.
        drop(self.inner.admission.metrics.set(metrics));
    }

    fn count(&self, outcome: CallOutcome) {
        if let Some(metrics) = self.inner.admission.metrics.get() {
            metrics.call(outcome);
        }
    }

    /// Says that the backend has come back, as whoever looks after it sees it.
    pub fn came_back(&self) {
        self.inner.admission.breaker.came_back();
    }

    /// Ends when calls have begun to fail.
    pub async fn in_trouble(&self) {
        self.inner.admission.trouble.notified().await;
    }

    fn failed(&self, reason: &str) {
        let admission = &self.inner.admission;
        match admission.breaker.failed(reason) {
            BreakerChange::Nothing => return,
            BreakerChange::First => {}
            BreakerChange::Opened => {
                if let Some(metrics) = admission.metrics.get() {
                    metrics.breaker_opened();
                }
                tracing::warn!(backend = %self.name(), reason, "the breaker opens: calls are refused for a while");
            }
        }
        admission.trouble.notify_one();
    }
}

impl CallPermit {
    /// The backend has answered, whatever it says.
    pub fn answered(&mut self) {
        self.is_alive(CallOutcome::Answered);
    }

    /// The call ended with `error`, which may say that the backend cannot be reached.
    pub fn failed(&mut self, error: &BackendError) {
        if matches!(error, BackendError::NotProcessed(_)) {
            // A server that is about to go, or has enough to do, says so. It neither fails nor answers.
            self.undecided();
        } else if error.says_unreachable() {
            self.settled = true;
            self.backend.count(CallOutcome::Unreachable);
            self.backend.failed(&error.to_string());
        } else {
            self.is_alive(CallOutcome::Invalid);
        }
    }

    /// The call ended for a reason that says nothing of the backend.
    pub fn undecided(&mut self) {
        self.settled = true;
        if self.is_trial {
            self.backend.inner.admission.breaker.trial_ended();
        }
    }

    fn is_alive(&mut self, outcome: CallOutcome) {
        self.settled = true;
        self.backend.count(outcome);
        if self.backend.inner.admission.breaker.answered() {
            tracing::info!(backend = %self.backend.name(), "the breaker closes: calls are answered again");
        }
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        let waited = self.began.elapsed();
        if !self.settled {
            self.backend.count(CallOutcome::Abandoned);
            if waited >= ABANDONED_AFTER {
                self.backend.failed(&BackendError::Deadline(waited).to_string());
            } else {
                self.undecided();
            }
        }
        let admission = &self.backend.inner.admission;
        if let Some(metrics) = admission.metrics.get() {
            metrics.took(waited);
        }
        admission.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::HttpClient;
    use crate::config::{BreakerSettings, ConcurrencySettings};
    use crate::runtime::tasks::Tasks;

    const OPEN_FOR: Duration = Duration::from_secs(10);

    fn backend(failures: u32) -> Backend {
        let url = "http://localhost/mcp".parse().unwrap();
        let configured = crate::config::BackendSettings::for_test("a", url);
        let backend = Backend::new(&configured, HttpClient::new(Tasks::default()));
        backend.isolate(&ResilienceSettings {
            breaker: BreakerSettings {
                failures,
                open_for: OPEN_FOR,
            },
            concurrency: ConcurrencySettings {
                limit: 1,
                queue: 1,
                wait: Duration::from_secs(1),
            },
            ..ResilienceSettings::default()
        });
        backend
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_says_that_nobody_is_there_opens_the_breaker() {
        let backend = backend(1);
        for error in [
            BackendError::Status(404),
            BackendError::Status(429),
            BackendError::SessionLost,
            BackendError::Invalid("nonsense".to_owned()),
        ] {
            backend.admit().await.unwrap().failed(&error);
            assert_eq!(backend.breaker(), BreakerState::Closed, "{error}");
        }
        let goaway = BackendError::NotProcessed("GOAWAY".to_owned());
        backend.admit().await.unwrap().failed(&goaway);
        assert_eq!(backend.breaker(), BreakerState::Closed);
        for error in [
            BackendError::Unreachable("refused".to_owned()),
            BackendError::Broken("reset".to_owned()),
            BackendError::Deadline(OPEN_FOR),
            BackendError::Status(500),
            BackendError::Status(503),
        ] {
            backend.admit().await.unwrap().failed(&error);
            assert_eq!(backend.breaker(), BreakerState::Open, "{error}");
            let refused = backend.admit().await.unwrap_err();
            assert!(matches!(refused, BackendError::CircuitOpen { .. }), "{refused}");
            backend.came_back();
            backend.admit().await.unwrap().answered();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_soon_says_nothing_and_who_waited_long_says_that_nobody_answers() {
        let backend = backend(1);
        let admitted = backend.admit().await.unwrap();
        tokio::time::advance(ABANDONED_AFTER - Duration::from_millis(1)).await;
        drop(admitted);
        assert_eq!(backend.breaker(), BreakerState::Closed);
        let admitted = backend.admit().await.unwrap();
        assert_eq!(backend.in_flight(), 1);
        tokio::time::advance(ABANDONED_AFTER).await;
        drop(admitted);
        assert_eq!(backend.breaker(), BreakerState::Open);
        assert_eq!(backend.in_flight(), 0);
        // Who looks after the backend is told.
        backend.in_trouble().await;
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_breaker_is_open_nobody_waits_for_a_place() {
        let backend = backend(1);
        let mut held = backend.admit().await.unwrap();
        held.failed(&BackendError::Status(500));
        let began = Instant::now();
        let refused = backend.admit().await.unwrap_err();
        assert!(matches!(refused, BackendError::CircuitOpen { .. }), "{refused}");
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
