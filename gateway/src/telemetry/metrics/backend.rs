//! The series of one backend.

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

/// What came of a call to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// It was answered.
    Answered,
    /// What came is no answer.
    Invalid,
    /// Nobody was there.
    Unreachable,
    /// The breaker was open.
    Blocked,
    /// There was no place.
    Overloaded,
    /// The client went away first.
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

/// Handles to what is counted for each call to one backend. The default counts for nobody.
#[derive(Clone, Debug, Default)]
pub struct BackendMetrics {
    outcomes: [Counter; OUTCOMES.len()],
    duration: Latency,
    opened: Counter,
}

impl BackendMetrics {
    /// A call ended like this.
    pub fn call(&self, outcome: CallOutcome) {
        self.outcomes[outcome as usize].inc();
    }

    /// A call took so long.
    pub fn took(&self, duration: Duration) {
        self.duration.observe(duration);
    }

    /// The breaker has opened.
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
    /// The handles of `backend`.
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

    pub(super) fn set_backend(&self, scene: &BackendScrapeState) {
        let shared = &*self.shared;
        let labels = |state| BackendStateLabels {
            backend: scene.name.clone(),
            state,
        };
        for state in Health::ALL.map(Health::as_str) {
            let gauge = shared.backend_health.get_or_create(&labels(state));
            gauge.set(i64::from(state == scene.health));
        }
        for state in BREAKER_STATES {
            let gauge = shared.breaker_state.get_or_create(&labels(state));
            gauge.set(i64::from(state == scene.breaker));
        }
        for (family, count) in [
            (&shared.backend_in_flight, scene.in_flight),
            (&shared.backend_connections, scene.connections),
        ] {
            let gauge = family.get_or_create(&BackendLabels::new(&scene.name));
            gauge.set(number(count));
        }
    }

    /// Takes the series of a backend away, which is not configured any more.
    pub(super) fn forget(&self, backend: &str) {
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
