//! The counters and gauges of the process, in the OpenMetrics format. No label takes a value that a client chooses.
//!
//! What happens often is counted by whoever does it, with a few atomic additions and without an allocation: what belongs to one
//! backend is behind handles that the backend keeps ([`BackendMetrics`]). What can be looked up is looked up when somebody scrapes.

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

/// What every name begins with.
const PREFIX: &str = "vmcp";

/// A cheap-clone handle to the metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
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
    /// The backends that have series; those of a backend that is gone are taken away.
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

/// What the catalogue holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct CatalogSize {
    /// The tools, prompts, resources and templates that are listed.
    pub items: [(&'static str, usize); 4],
    /// The names that two claim, of several backends or of one.
    pub conflicts: usize,
    /// What is not offered for other reasons.
    pub faults: usize,
    /// What is offered with a reservation.
    pub warnings: usize,
}

/// What a scrape looks up.
#[derive(Clone, Debug, Default)]
pub struct ScrapeState {
    /// Whether `/readyz` says yes.
    pub ready: bool,
    /// How many tasks run.
    pub tasks: usize,
    /// How many bytes are buffered.
    pub buffered: usize,
    /// How often there was no room for more, since the process began.
    pub buffer_refusals: u64,
    /// How many answers were broken off because nobody read them.
    pub unread_closed: u64,
    /// How many sessions are in each state.
    pub sessions: [(&'static str, usize); 4],
    /// The backends.
    pub backends: Vec<BackendScrapeState>,
}

/// What a scrape looks up of one backend.
#[derive(Clone, Debug, Default)]
pub struct BackendScrapeState {
    /// Its name.
    pub name: String,
    /// Its health.
    pub health: &'static str,
    /// The state of its breaker.
    pub breaker: &'static str,
    /// How many calls run.
    pub in_flight: usize,
    /// How many connections are open.
    pub connections: usize,
}

impl Metrics {
    /// Metrics at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let build_info = Family::<VersionLabels, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build_info.get_or_create(&VersionLabels { version }).set(1);
        let shared = Shared {
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

    /// A request began.
    pub fn request_began(&self) {
        self.shared.in_flight.inc();
    }

    /// A request has ended.
    pub fn request_ended(&self) {
        self.shared.in_flight.dec();
    }

    /// A request of `method` was answered with `status`.
    pub fn request(&self, method: &'static str, status: u16, outcome: &'static str) {
        let labels = RequestLabels {
            method,
            status,
            outcome,
        };
        self.shared.requests.get_or_create(&labels).inc();
    }

    /// A request of `method` took so long.
    pub fn request_took(&self, method: &'static str, duration: Duration) {
        let labels = MethodLabels { method };
        self.shared
            .request_duration
            .get_or_create(&labels)
            .observe(duration);
    }

    /// A stream of that kind is open now, in addition to others.
    pub fn stream_opened(&self, kind: &'static str) {
        self.shared.streams.get_or_create(&KindLabels { kind }).inc();
    }

    /// A stream of that kind has ended.
    pub fn stream_ended(&self, kind: &'static str) {
        self.shared.streams.get_or_create(&KindLabels { kind }).dec();
    }

    /// An answer broke off when a part of it was with the client.
    pub fn answer_aborted(&self) {
        self.shared.aborted.inc();
    }

    /// A session was opened.
    pub fn session_created(&self) {
        self.shared.sessions_created.inc();
    }

    /// A session was ended by its client.
    pub fn session_terminated(&self) {
        self.shared.sessions_terminated.inc();
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

    /// An operation of the session store had no answer.
    pub fn store_unavailable(&self) {
        self.shared.store_unavailable.inc();
    }

    /// An upstream session was opened.
    pub fn handshake(&self, backend: &BackendName) {
        self.of(&self.shared.handshakes, backend).inc();
    }

    /// A call met a lost upstream session.
    pub fn repaired(&self, backend: &BackendName) {
        self.of(&self.shared.repairs, backend).inc();
    }

    /// An answer is passed on unchecked.
    pub fn unchecked(&self, backend: &BackendName) {
        self.of(&self.shared.unchecked, backend).inc();
    }

    /// A new hot configuration was accepted, or refused.
    pub fn reloaded(&self, accepted: bool) {
        let outcome = if accepted { "accepted" } else { "refused" };
        self.shared
            .reloads
            .get_or_create(&OutcomeLabels { outcome })
            .inc();
    }

    /// It was asked who sends a request: `accepted`, or why that is not known.
    pub fn authentication(&self, outcome: &'static str) {
        let labels = OutcomeLabels { outcome };
        self.shared.authentications.get_or_create(&labels).inc();
    }

    /// The issuer was asked for its keys.
    pub fn issuer_keys_fetched(&self, outcome: &'static str) {
        let labels = OutcomeLabels { outcome };
        self.shared.issuer_fetches.get_or_create(&labels).inc();
    }

    /// This is offered now.
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

    /// The text that a scrape gets.
    #[must_use]
    pub fn encode(&self, scene: &ScrapeState) -> String {
        self.set(scene);
        let mut encoded = String::new();
        match text::encode(&mut encoded, &self.shared.registry) {
            Ok(()) => encoded,
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be written");
                String::new()
            }
        }
    }

    fn set(&self, scene: &ScrapeState) {
        let shared = &*self.shared;
        shared.ready.set(i64::from(scene.ready));
        shared.tasks.set(number(scene.tasks));
        shared.buffered.set(number(scene.buffered));
        let before = shared.buffer_refusals.get();
        shared
            .buffer_refusals
            .inc_by(scene.buffer_refusals.saturating_sub(before));
        let before = shared.unread_closed.get();
        shared
            .unread_closed
            .inc_by(scene.unread_closed.saturating_sub(before));
        for (state, sessions) in scene.sessions {
            let sessions = number(sessions);
            shared
                .sessions
                .get_or_create(&StateLabels { state })
                .set(sessions);
        }
        let present: BTreeSet<_> = scene
            .backends
            .iter()
            .map(|backend| backend.name.clone())
            .collect();
        let mut known = shared.backends.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in known.difference(&present) {
            self.forget(gone);
        }
        known.clone_from(&present);
        for backend in &scene.backends {
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
