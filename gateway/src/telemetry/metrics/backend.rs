//! The metrics of one backend.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use vmcp_crds::status::Health;

use super::latency::Latency;
use super::{BackendScrapeState, Metrics, number};
use crate::config::BackendName;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BackendLabels {
    backend: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BackendOutcomeLabels {
    backend: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BackendStateLabels {
    backend: String,
    state: &'static str,
}

/// Outcome of a call to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The backend sent a valid response, which may be an error.
    Answered,
    /// The backend sent an invalid response.
    Invalid,
    /// The backend could not be reached, or did not respond in time.
    Unreachable,
    /// The circuit breaker was open, so the call was not sent.
    Blocked,
    /// The concurrency limit was reached, so the call was not sent.
    Overloaded,
    /// The client disconnected first.
    Abandoned,
}

const OUTCOMES: [&str; 6] = [
    "answered",
    "invalid",
    "unreachable",
    "blocked",
    "overloaded",
    "abandoned",
];
const BREAKER_STATES: [&str; 3] = ["closed", "half_open", "open"];

/// Handles to the metrics that each call to one backend updates. The default handles are not exported.
#[derive(Clone, Debug, Default)]
pub struct BackendMetrics {
    outcomes: [Counter; OUTCOMES.len()],
    duration: Latency,
    opened: Counter,
}

impl BackendMetrics {
    /// Counts a call by its outcome.
    pub fn call(&self, outcome: CallOutcome) {
        self.outcomes[outcome as usize].inc();
    }

    /// Records the duration of a call.
    pub fn took(&self, duration: Duration) {
        self.duration.observe(duration);
    }

    /// Counts a transition of the circuit breaker to open.
    pub fn breaker_opened(&self) {
        self.opened.inc();
    }
}

impl BackendLabels {
    pub(super) fn new(backend: &str) -> Self {
        Self {
            backend: backend.to_owned(),
        }
    }
}

impl Metrics {
    /// Creates the metrics of `backend`.
    #[must_use]
    pub fn backend(&self, backend: &BackendName) -> BackendMetrics {
        let (labels, shared) = (BackendLabels::new(backend.as_str()), &*self.shared);
        let outcomes = OUTCOMES.map(|outcome| BackendOutcomeLabels {
            backend: backend.to_string(),
            outcome,
        });
        BackendMetrics {
            outcomes: outcomes.map(|labels| shared.backend_requests.get_or_create_owned(&labels)),
            duration: shared.backend_duration.get_or_create_owned(&labels),
            opened: shared.breaker_opened.get_or_create_owned(&labels),
        }
    }

    pub(super) fn set_backend(&self, scraped: &BackendScrapeState) {
        let shared = &*self.shared;
        let labels = |state| BackendStateLabels {
            backend: scraped.name.clone(),
            state,
        };
        for state in Health::ALL.map(Health::as_str) {
            let gauge = shared.backend_health.get_or_create(&labels(state));
            gauge.set(i64::from(state == scraped.health));
        }
        for state in BREAKER_STATES {
            let gauge = shared.breaker_state.get_or_create(&labels(state));
            gauge.set(i64::from(state == scraped.breaker));
        }
        for (family, count) in [
            (&shared.backend_in_flight, scraped.in_flight),
            (&shared.backend_connections, scraped.connections),
        ] {
            let gauge = family.get_or_create(&BackendLabels::new(&scraped.name));
            gauge.set(number(count));
        }
    }

    /// Removes the metrics of a backend that is no longer configured.
    pub(super) fn remove_backend(&self, backend: &str) {
        let (labels, shared) = (BackendLabels::new(backend), &*self.shared);
        for outcome in OUTCOMES {
            shared.backend_requests.remove(&BackendOutcomeLabels {
                backend: backend.to_owned(),
                outcome,
            });
        }
        let state = |state| BackendStateLabels {
            backend: backend.to_owned(),
            state,
        };
        for name in Health::ALL.map(Health::as_str) {
            shared.backend_health.remove(&state(name));
        }
        for name in BREAKER_STATES {
            shared.breaker_state.remove(&state(name));
        }
        shared.backend_duration.remove(&labels);
        shared.backend_in_flight.remove(&labels);
        shared.backend_connections.remove(&labels);
        for family in [
            &shared.breaker_opened,
            &shared.handshakes,
            &shared.repairs,
            &shared.unchecked,
        ] {
            family.remove(&labels);
        }
    }
}
