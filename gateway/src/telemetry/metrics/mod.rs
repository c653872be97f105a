//! The metrics of the process in the OpenMetrics format. No label has a value that a client can choose.
//!
//! Frequent events cost a few atomic additions and no allocation: each backend keeps handles to its metrics ([`BackendMetrics`]). State that
//! can be read at any time is read at the scrape ([`ScrapeState`]).

mod backend;
mod latency;
mod page;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

use crate::config::BackendName;

use backend::{BackendLabels, BackendOutcomeLabels, BackendStateLabels};
use latency::Latency;
use page::MetricEntry;

pub use backend::{BackendMetrics, CallOutcome};
pub use page::{ENTRIES, table};

/// Prefix of all metric names.
const PREFIX: &str = "vmcp";

/// A cheap-clone handle to the metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    shared: Arc<AllMetrics>,
}

#[derive(Debug)]
struct AllMetrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_duration: Family<MethodLabels, Latency>,
    in_flight: Gauge,
    streams: Family<KindLabels, Gauge>,
    buffered: Gauge,
    buffer_refusals: Counter,
    unread_closed: Counter,
    sessions: Family<StateLabels, Gauge>,
    sessions_created: Counter,
    sessions_terminated: Counter,
    sessions_recovered: Counter,
    served_without_store: Counter,
    store_up: Gauge,
    store_unavailable: Counter,
    backend_requests: Family<BackendOutcomeLabels, Counter>,
    backend_duration: Family<BackendLabels, Latency>,
    backend_in_flight: Family<BackendLabels, Gauge>,
    backend_connections: Family<BackendLabels, Gauge>,
    backend_health: Family<BackendStateLabels, Gauge>,
    breaker_state: Family<BackendStateLabels, Gauge>,
    breaker_opened: Family<BackendLabels, Counter>,
    handshakes: Family<BackendLabels, Counter>,
    repairs: Family<BackendLabels, Counter>,
    unchecked: Family<BackendLabels, Counter>,
    aborted: Counter,
    catalog_items: Family<KindLabels, Gauge>,
    conflicts: Gauge,
    faults: Gauge,
    warnings: Gauge,
    reloads: Family<OutcomeLabels, Counter>,
    authentications: Family<OutcomeLabels, Counter>,
    issuer_fetches: Family<OutcomeLabels, Counter>,
    ready: Gauge,
    tasks: Gauge,
    /// The backends with metrics. They are removed when the backend is no longer configured.
    backends: Mutex<BTreeSet<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    status: u16,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabels {
    version: &'static str,
}

/// Sizes of the merged catalog.
#[derive(Clone, Copy, Debug, Default)]
pub struct CatalogSize {
    /// Number of listed items by kind.
    pub items: [(&'static str, usize); 4],
    /// Number of names that more than one item claims.
    pub conflicts: usize,
    /// Number of items that are not advertised for other reasons.
    pub faults: usize,
    /// Number of items that are advertised with a warning.
    pub warnings: usize,
}

/// State that is read at a scrape.
#[derive(Clone, Debug, Default)]
pub struct ScrapeState {
    /// Whether `/readyz` responds with 200.
    pub ready: bool,
    /// Number of running tasks.
    pub tasks: usize,
    /// Number of buffered bytes.
    pub buffered: usize,
    /// Refused reservations since the process started.
    pub buffer_refusals: u64,
    /// Responses that were cut off because their clients did not read, since the process started.
    pub unread_closed: u64,
    /// Number of sessions by state.
    pub sessions: [(&'static str, usize); 4],
    /// State of each backend.
    pub backends: Vec<BackendScrapeState>,
}

/// State of one backend that is read at a scrape.
#[derive(Clone, Debug, Default)]
pub struct BackendScrapeState {
    /// Name of the backend.
    pub name: String,
    /// Health of the backend, as in the label `state`.
    pub health: &'static str,
    /// State of its circuit breaker, as in the label `state`.
    pub breaker: &'static str,
    /// Number of running calls.
    pub in_flight: usize,
    /// Number of open connections.
    pub connections: usize,
}

impl Metrics {
    /// Creates all metrics with the value zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let build_info = Family::<VersionLabels, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build_info.get_or_create(&VersionLabels { version }).set(1);
        let shared = AllMetrics {
            requests: add(&mut registry, page::REQUESTS),
            request_duration: add(&mut registry, page::REQUEST_DURATION),
            in_flight: add(&mut registry, page::REQUESTS_IN_FLIGHT),
            streams: add(&mut registry, page::STREAMS),
            buffered: add(&mut registry, page::BUFFERED),
            buffer_refusals: add(&mut registry, page::BUFFER_REFUSALS),
            unread_closed: add(&mut registry, page::UNREAD_CLOSED),
            sessions: add(&mut registry, page::SESSIONS),
            sessions_created: add(&mut registry, page::SESSIONS_CREATED),
            sessions_terminated: add(&mut registry, page::SESSIONS_TERMINATED),
            sessions_recovered: add(&mut registry, page::SESSIONS_RECOVERED),
            served_without_store: add(&mut registry, page::SERVED_WITHOUT_STORE),
            store_up: add(&mut registry, page::STORE_UP),
            store_unavailable: add(&mut registry, page::STORE_UNAVAILABLE),
            backend_requests: add(&mut registry, page::BACKEND_REQUESTS),
            backend_duration: add(&mut registry, page::BACKEND_DURATION),
            backend_in_flight: add(&mut registry, page::BACKEND_IN_FLIGHT),
            backend_connections: add(&mut registry, page::BACKEND_CONNECTIONS),
            backend_health: add(&mut registry, page::BACKEND_HEALTH),
            breaker_state: add(&mut registry, page::BREAKER_STATE),
            breaker_opened: add(&mut registry, page::BREAKER_OPENED),
            handshakes: add(&mut registry, page::HANDSHAKES),
            repairs: add(&mut registry, page::REPAIRS),
            unchecked: add(&mut registry, page::UNCHECKED),
            aborted: add(&mut registry, page::ABORTED),
            catalog_items: add(&mut registry, page::CATALOG_ITEMS),
            conflicts: add(&mut registry, page::CATALOG_CONFLICTS),
            faults: add(&mut registry, page::CATALOG_FAULTS),
            warnings: add(&mut registry, page::CATALOG_WARNINGS),
            reloads: add(&mut registry, page::RELOADS),
            authentications: add(&mut registry, page::AUTHENTICATIONS),
            issuer_fetches: add(&mut registry, page::ISSUER_FETCHES),
            ready: add(&mut registry, page::READY),
            tasks: add(&mut registry, page::TASKS),
            backends: Mutex::default(),
            registry: {
                registry.register(page::BUILD_INFO.name, page::BUILD_INFO.help, build_info);
                registry
            },
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Records the start of a request.
    pub fn request_began(&self) {
        self.shared.in_flight.inc();
    }

    /// Records the end of a request.
    pub fn request_ended(&self) {
        self.shared.in_flight.dec();
    }

    /// Counts a request of `method` by status and outcome.
    pub fn request(&self, method: &'static str, status: u16, outcome: &'static str) {
        let labels = RequestLabels {
            method,
            status,
            outcome,
        };
        self.shared.requests.get_or_create(&labels).inc();
    }

    /// Records the duration of a request of `method`.
    pub fn request_took(&self, method: &'static str, duration: Duration) {
        let labels = MethodLabels { method };
        self.shared
            .request_duration
            .get_or_create(&labels)
            .observe(duration);
    }

    /// Records that a client has opened a stream of `kind`.
    pub fn stream_opened(&self, kind: &'static str) {
        self.shared.streams.get_or_create(&KindLabels { kind }).inc();
    }

    /// Records the end of a stream of `kind`.
    pub fn stream_ended(&self, kind: &'static str) {
        self.shared.streams.get_or_create(&KindLabels { kind }).dec();
    }

    /// Counts a response that ended early after a part of it was sent.
    pub fn answer_aborted(&self) {
        self.shared.aborted.inc();
    }

    /// Counts a session that a client opened.
    pub fn session_created(&self) {
        self.shared.sessions_created.inc();
    }

    /// Counts a session that its client terminated.
    pub fn session_terminated(&self) {
        self.shared.sessions_terminated.inc();
    }

    /// Records whether the session store is available.
    pub fn store_answers(&self, answers: bool) {
        self.shared.store_up.set(i64::from(answers));
    }

    /// Counts a request that was served from the cache because the session store was unavailable.
    pub fn served_without_store(&self) {
        self.shared.served_without_store.inc();
    }

    /// Counts a session record that was created again after the store lost it.
    pub fn recovered(&self) {
        self.shared.sessions_recovered.inc();
    }

    /// Counts an operation of the session store without a response.
    pub fn store_unavailable(&self) {
        self.shared.store_unavailable.inc();
    }

    /// Counts an upstream session that was opened at `backend`.
    pub fn handshake(&self, backend: &BackendName) {
        self.of(&self.shared.handshakes, backend).inc();
    }

    /// Counts a call that found its upstream session lost and opened another one.
    pub fn repaired(&self, backend: &BackendName) {
        self.of(&self.shared.repairs, backend).inc();
    }

    /// Counts a response that was passed on without validation because of its size.
    pub fn unchecked(&self, backend: &BackendName) {
        self.of(&self.shared.unchecked, backend).inc();
    }

    /// Counts a change of the hot configuration that was accepted or refused.
    pub fn reloaded(&self, accepted: bool) {
        let outcome = if accepted { "accepted" } else { "refused" };
        self.shared
            .reloads
            .get_or_create(&OutcomeLabels { outcome })
            .inc();
    }

    /// Counts an authentication of a request. `outcome` is `accepted` or the reason of the rejection.
    pub fn authentication(&self, outcome: &'static str) {
        let labels = OutcomeLabels { outcome };
        self.shared.authentications.get_or_create(&labels).inc();
    }

    /// Counts a fetch of the issuer's keys.
    pub fn issuer_keys_fetched(&self, outcome: &'static str) {
        let labels = OutcomeLabels { outcome };
        self.shared.issuer_fetches.get_or_create(&labels).inc();
    }

    /// Records the sizes of the merged catalog.
    pub fn catalog(&self, size: CatalogSize) {
        for (kind, items) in size.items {
            let items = number(items);
            self.shared
                .catalog_items
                .get_or_create(&KindLabels { kind })
                .set(items);
        }
        self.shared.conflicts.set(number(size.conflicts));
        self.shared.faults.set(number(size.faults));
        self.shared.warnings.set(number(size.warnings));
    }

    /// Encodes all metrics as text, with the current `state`.
    #[must_use]
    pub fn encode(&self, state: &ScrapeState) -> String {
        self.set(state);
        let mut encoded = String::new();
        match text::encode(&mut encoded, &self.shared.registry) {
            Ok(()) => encoded,
            Err(error) => {
                tracing::error!(%error, "failed to encode the metrics");
                String::new()
            }
        }
    }

    fn set(&self, scraped: &ScrapeState) {
        let shared = &*self.shared;
        shared.ready.set(i64::from(scraped.ready));
        shared.tasks.set(number(scraped.tasks));
        shared.buffered.set(number(scraped.buffered));
        let before = shared.buffer_refusals.get();
        shared
            .buffer_refusals
            .inc_by(scraped.buffer_refusals.saturating_sub(before));
        let before = shared.unread_closed.get();
        shared
            .unread_closed
            .inc_by(scraped.unread_closed.saturating_sub(before));
        for (state, sessions) in scraped.sessions {
            let sessions = number(sessions);
            shared
                .sessions
                .get_or_create(&StateLabels { state })
                .set(sessions);
        }
        let present: BTreeSet<_> = scraped
            .backends
            .iter()
            .map(|backend| backend.name.clone())
            .collect();
        let mut known = shared.backends.lock().unwrap_or_else(PoisonError::into_inner);
        for removed in known.difference(&present) {
            self.remove_backend(removed);
        }
        known.clone_from(&present);
        for backend in &scraped.backends {
            self.set_backend(backend);
        }
    }

    fn of<'a>(
        &self,
        family: &'a Family<BackendLabels, Counter>,
        backend: &BackendName,
    ) -> impl std::ops::Deref<Target = Counter> + 'a {
        family.get_or_create(&BackendLabels::new(backend.as_str()))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn add<M: Metric + Clone + Default>(registry: &mut Registry, entry: MetricEntry) -> M {
    let metric = M::default();
    registry.register(entry.name, entry.help, metric.clone());
    metric
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
