//! The counters and gauges of the process, in the OpenMetrics format. No label takes a value that a client chooses.

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::config::BackendName;

/// A cheap-clone handle to the metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    handshakes: Family<BackendLabels, Counter>,
    repairs: Family<BackendLabels, Counter>,
    store_unavailable: Counter,
    authentications: Family<OutcomeLabels, Counter>,
    issuer_fetches: Family<OutcomeLabels, Counter>,
    store_up: Gauge,
    served_without_store: Counter,
    sessions_recovered: Counter,
    tools: Gauge,
    reloads: Family<ReloadLabels, Counter>,
    tasks: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BackendLabels {
    backend: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

impl Metrics {
    /// Metrics at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("vmcp");
        let requests = Family::default();
        registry.register(
            "requests",
            "Requests at the MCP endpoint, by method and HTTP status",
            requests.clone(),
        );
        let handshakes = Family::default();
        registry.register(
            "upstream_handshakes",
            "Upstream sessions opened, by backend",
            handshakes.clone(),
        );
        let repairs = Family::default();
        registry.register(
            "upstream_repairs",
            "Calls whose backend had lost its session and that were repaired, by backend",
            repairs.clone(),
        );
        let store_unavailable = Counter::default();
        registry.register(
            "session_store_unavailable",
            "Operations of the session store that had no answer",
            store_unavailable.clone(),
        );
        let authentications = Family::default();
        registry.register(
            "authentications",
            "Requests whose caller had to be known, by what came of it",
            authentications.clone(),
        );
        let issuer_fetches = Family::default();
        registry.register(
            "token_issuer_fetches",
            "Attempts to fetch the keys of the token issuer, by outcome",
            issuer_fetches.clone(),
        );
        let store_up = Gauge::default();
        registry.register(
            "session_store_up",
            "Whether the session store answers: 1 or 0",
            store_up.clone(),
        );
        let served_without_store = Counter::default();
        registry.register(
            "sessions_served_without_store",
            "Requests that were served from memory because the session store did not answer",
            served_without_store.clone(),
        );
        let sessions_recovered = Counter::default();
        registry.register(
            "sessions_recovered",
            "Sessions that were brought back into a session store that had lost them",
            sessions_recovered.clone(),
        );
        let tools = Gauge::default();
        let reloads = Family::default();
        registry.register(
            "config_reloads",
            "Changes of the hot configuration, by whether they were accepted or refused",
            reloads.clone(),
        );
        registry.register("tools", "Tools that clients are offered", tools.clone());
        let tasks = Gauge::default();
        registry.register(
            "tasks",
            "Tasks that run: one for each connection of a client and for each backend, and what goes on behind requests",
            tasks.clone(),
        );
        Self {
            shared: Arc::new(Shared {
                registry,
                requests,
                handshakes,
                repairs,
                store_unavailable,
                authentications,
                issuer_fetches,
                store_up,
                served_without_store,
                sessions_recovered,
                tools,
                reloads,
                tasks,
            }),
        }
    }

    /// A request of `method` was answered with `status`.
    pub fn request(&self, method: &'static str, status: u16) {
        self.shared
            .requests
            .get_or_create(&RequestLabels { method, status })
            .inc();
    }

    /// An upstream session was opened.
    pub fn handshake(&self, backend: &BackendName) {
        self.shared
            .handshakes
            .get_or_create(&BackendLabels {
                backend: backend.to_string(),
            })
            .inc();
    }

    /// A call met a lost upstream session.
    pub fn repaired(&self, backend: &BackendName) {
        self.shared
            .repairs
            .get_or_create(&BackendLabels {
                backend: backend.to_string(),
            })
            .inc();
    }

    /// An operation of the session store had no answer.
    pub fn store_unavailable(&self) {
        self.shared.store_unavailable.inc();
    }

    /// A new hot configuration was accepted, or refused.
    pub fn reloaded(&self, accepted: bool) {
        let outcome = if accepted { "accepted" } else { "refused" };
        self.shared.reloads.get_or_create(&ReloadLabels { outcome }).inc();
    }

    /// It was asked who sends a request: `accepted`, or why that is not known.
    pub fn authentication(&self, outcome: &'static str) {
        self.shared
            .authentications
            .get_or_create(&OutcomeLabels { outcome })
            .inc();
    }

    /// The issuer was asked for its keys.
    pub fn issuer_keys_fetched(&self, outcome: &'static str) {
        self.shared
            .issuer_fetches
            .get_or_create(&OutcomeLabels { outcome })
            .inc();
    }

    /// The session store answers, or does not.
    pub fn store_answers(&self, answers: bool) {
        self.shared.store_up.set(i64::from(answers));
    }

    /// A request was served from memory because the session store did not answer.
    pub fn served_without_store(&self) {
        self.shared.served_without_store.inc();
    }

    /// A session was brought back.
    pub fn recovered(&self) {
        self.shared.sessions_recovered.inc();
    }

    /// So many tools are offered now.
    pub fn tools_offered(&self, tools: usize) {
        self.shared.tools.set(i64::try_from(tools).unwrap_or(i64::MAX));
    }

    /// So many tasks run now.
    pub fn tasks_running(&self, tasks: usize) {
        self.shared.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
    }

    /// The text that a scrape gets.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut encoded = String::new();
        match text::encode(&mut encoded, &self.shared.registry) {
            Ok(()) => encoded,
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be written");
                String::new()
            }
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
