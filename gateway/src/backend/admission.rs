//! Admission of calls to a backend: circuit breaker and concurrency limit, fed by the outcome of each call.

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

/// A call abandoned after this time counts as a failure of the backend. Clients have their own deadlines, which are mostly shorter than
/// the gateway's.
const ABANDONED_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct BackendAdmission {
    breaker: Breaker,
    concurrency: ConcurrencyLimit,
    in_flight: AtomicUsize,
    /// Signals that calls have started to fail.
    failures_started: Notify,
    metrics: OnceLock<BackendMetrics>,
}

/// The permit of one call. Keep it until the response is complete: dropping it frees the concurrency slot.
#[derive(Debug)]
pub struct CallPermit {
    backend: Backend,
    began: Instant,
    is_trial: bool,
    settled: bool,
    _slot: OwnedSemaphorePermit,
}

impl BackendAdmission {
    /// Fails while the breaker is open.
    pub(super) fn check_breaker(&self) -> Result<(), BackendError> {
        self.breaker.check()
    }
}

impl Backend {
    /// Applies new breaker and concurrency settings. Running calls continue.
    pub fn set_resilience(&self, settings: &ResilienceSettings) {
        self.inner.admission.breaker.set(settings.breaker);
        self.inner.admission.concurrency.set(settings.concurrency);
    }

    /// Admits a call, after a bounded wait for a concurrency slot. The caller reports the outcome to the permit.
    ///
    /// # Errors
    /// [`BackendError::CircuitOpen`] and [`BackendError::Overloaded`]. Nothing was sent.
    pub async fn admit(&self) -> Result<CallPermit, BackendError> {
        let admission = &self.inner.admission;
        let blocked = |_: &BackendError| self.count(CallOutcome::Blocked);
        // Fail fast before waiting for a slot.
        admission.breaker.check().inspect_err(blocked)?;
        let slot = admission.concurrency.acquire().await;
        let slot = slot.inspect_err(|_| self.count(CallOutcome::Overloaded))?;
        let is_trial = admission.breaker.admit().inspect_err(blocked)?;
        admission.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(CallPermit {
            backend: self.clone(),
            began: Instant::now(),
            is_trial,
            settled: false,
            _slot: slot,
        })
    }

    /// The number of running calls.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner.admission.in_flight.load(Ordering::Relaxed)
    }

    /// The state of the circuit breaker.
    #[must_use]
    pub fn breaker(&self) -> BreakerState {
        self.inner.admission.breaker.state()
    }

    /// Sets the metrics that count the calls.
    pub fn set_metrics(&self, metrics: BackendMetrics) {
        // The catalog calls this once for each backend.
        drop(self.inner.admission.metrics.set(metrics));
    }

    fn count(&self, outcome: CallOutcome) {
        if let Some(metrics) = self.inner.admission.metrics.get() {
            metrics.call(outcome);
        }
    }

    /// Records that discovery reaches the backend again.
    pub fn mark_recovered(&self) {
        self.inner.admission.breaker.mark_recovered();
    }

    /// Waits until calls start to fail.
    pub async fn wait_for_failures(&self) {
        self.inner.admission.failures_started.notified().await;
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
                tracing::warn!(backend = %self.name(), reason, "circuit breaker opened");
            }
        }
        admission.failures_started.notify_one();
    }
}

impl CallPermit {
    /// Records a response, including an error response.
    pub fn answered(&mut self) {
        self.record_response(CallOutcome::Answered);
    }

    /// Records an error, which may be a failure of the backend.
    pub fn failed(&mut self, error: &BackendError) {
        if matches!(error, BackendError::NotProcessed(_)) {
            // The server is shutting down or busy: neither a failure nor a response.
            self.undecided();
        } else if error.is_backend_failure() {
            self.settled = true;
            self.backend.count(CallOutcome::Unreachable);
            self.backend.failed(&error.to_string());
        } else {
            self.record_response(CallOutcome::Invalid);
        }
    }

    /// Records an end that says nothing about the backend.
    pub fn undecided(&mut self) {
        self.settled = true;
        if self.is_trial {
            self.backend.inner.admission.breaker.trial_ended();
        }
    }

    fn record_response(&mut self, outcome: CallOutcome) {
        self.settled = true;
        self.backend.count(outcome);
        if self.backend.inner.admission.breaker.answered() {
            tracing::info!(backend = %self.backend.name(), "circuit breaker closed");
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
        backend.set_resilience(&ResilienceSettings {
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
    async fn only_backend_failures_open_the_breaker() {
        let backend = backend(1);
        for error in [
            BackendError::status(404),
            BackendError::status(429),
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
            BackendError::status(500),
            BackendError::status(503),
        ] {
            backend.admit().await.unwrap().failed(&error);
            assert_eq!(backend.breaker(), BreakerState::Open, "{error}");
            let refused = backend.admit().await.unwrap_err();
            assert!(matches!(refused, BackendError::CircuitOpen { .. }), "{refused}");
            backend.mark_recovered();
            backend.admit().await.unwrap().answered();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_long_abandoned_call_counts_as_failure() {
        // A call abandoned early says nothing about the backend; one abandoned late counts as no response.
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
        // Discovery is notified.
        backend.wait_for_failures().await;
    }

    #[tokio::test(start_paused = true)]
    async fn open_breaker_fails_fast_without_a_slot() {
        let backend = backend(1);
        let mut held = backend.admit().await.unwrap();
        held.failed(&BackendError::status(500));
        let began = Instant::now();
        let refused = backend.admit().await.unwrap_err();
        assert!(matches!(refused, BackendError::CircuitOpen { .. }), "{refused}");
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
