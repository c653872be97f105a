//! What is offered, and by whom.
//!
//! The catalogue is kept warm by the gateway itself, per backend and for all sessions: a list is answered from memory, and
//! neither a list nor `initialize` waits for a backend. It is one immutable [`CatalogSnapshot`] behind a pointer; a change makes a
//! new one.
//!
//! Nobody who asks takes a lock: the backends, what is known of each, and the snapshot are read as they are at that moment. What a backend
//! lists is read and merged on threads of its own ([`Compute`](crate::runtime::compute::Compute)), so that a list without end costs the others
//! nothing but the wait for the next snapshot.

mod backend_state;
mod cursor;
mod diagnostics;
mod discovery;
mod exposure;
mod instructions;
mod list_changed_listener;
mod list_changes;
mod merge;
mod merged_list;
mod overlap;
mod persisted;
mod session_view;
mod snapshot;
mod task_support;
#[cfg(test)]
mod test_util;
#[cfg(test)]
mod tests;
mod unmatched_rules;
mod uri_owners;
mod uri_template;
mod uri_template_overlap;
#[cfg(test)]
mod uri_tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use vmcp_crds::status::Health;

use crate::backend::{Backend, BreakerState, HttpClient, ListKind, ServerCapabilities};
use crate::config::{self, Aggregation, BackendName};
use crate::runtime::readiness::Readiness;
use crate::runtime::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::CatalogSize;

use backend_state::CatalogBackend;
use list_changes::ListChanges;
use session_view::SessionViews;

pub use backend_state::DiscoveryState;
pub use cursor::InvalidCursor;
pub use diagnostics::Diagnostics;
pub use exposure::BackendOffer;
pub use list_changes::{LISTS_CHANGED, ListVersions, is_list_changed};
pub use merged_list::{ListPage, MergedList, PageError};
pub use persisted::written;
pub use session_view::{OwnList, ViewOwner};
pub use snapshot::{CatalogSnapshot, NotFound};

/// How long readiness waits for the first look at a backend: one that hangs must not keep the others from being served.
const FIRST_LOOK_PATIENCE: Duration = Duration::from_secs(3);

/// How many conflicts one change of the catalogue logs.
const MAX_LOGGED_CONFLICTS: usize = 10;

/// Where something is.
#[derive(Clone, Debug)]
pub struct ItemRoute {
    /// The backend that has it.
    pub backend: Backend,
    /// What it is called by there.
    pub name: Arc<str>,
}

/// The catalogue. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Catalog {
    shared: Arc<CatalogState>,
}

#[derive(Debug)]
struct CatalogState {
    snapshot: ArcSwap<CatalogSnapshot>,
    changes: ListChanges,
    /// What is offered to single sessions.
    views: SessionViews,
    members: ArcSwap<CatalogBackends>,
    /// Orders the configurations, and is held for no longer than one is taken.
    applying: Mutex<()>,
    /// Orders the making of snapshots, so that an older one never replaces a newer one. It is waited for on the threads for heavy work
    /// only. What it holds is the number of the last change that is in the snapshot.
    merging: Mutex<u64>,
    /// How many changes there were that want a snapshot.
    wanted: AtomicU64,
    transport: HttpClient,
    tasks: Tasks,
    metrics: Metrics,
}

/// The backends at one moment.
#[derive(Clone, Debug, Default)]
struct CatalogBackends {
    running: BTreeMap<BackendName, Arc<RunningDiscovery>>,
    /// The order of the configuration.
    order: Vec<BackendName>,
    aggregation: Arc<Aggregation>,
    /// Those that are listed in each client's own session.
    listed_per_session: Arc<[Backend]>,
}

#[derive(Debug)]
struct RunningDiscovery {
    member: Arc<CatalogBackend>,
    stop: CancellationToken,
}

impl Drop for RunningDiscovery {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl CatalogBackends {
    fn note_those_listed_per_session(&mut self) {
        let backends = self.in_order().map(|running| &running.member.backend);
        let per_session = backends.filter(|backend| backend.lists_per_session());
        self.listed_per_session = per_session.cloned().collect();
    }

    fn in_order(&self) -> impl Iterator<Item = &Arc<RunningDiscovery>> {
        self.order.iter().filter_map(|name| self.running.get(name))
    }
}

impl Catalog {
    pub(super) fn new(transport: HttpClient, tasks: Tasks, metrics: Metrics) -> Self {
        let shared = CatalogState {
            snapshot: ArcSwap::from_pointee(merge::merge(&[], &Arc::default())),
            changes: ListChanges::default(),
            views: SessionViews::new(transport.budget()),
            members: ArcSwap::default(),
            applying: Mutex::default(),
            merging: Mutex::default(),
            wanted: AtomicU64::default(),
            transport,
            tasks,
            metrics,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Makes `backends` the members: those that stay where they were keep what is known of them. The snapshot follows with
    /// [`Self::merge`].
    pub(super) fn apply(
        &self,
        backends: &[config::BackendSettings],
        aggregation: &Arc<Aggregation>,
        readiness: Option<&Readiness>,
    ) {
        let _one_at_a_time = self
            .shared
            .applying
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut members = CatalogBackends::clone(&self.members());
        members.running.retain(|_, running| {
            let same = |configured: &config::BackendSettings| running.member.backend.is(configured);
            let stays = backends.iter().any(same);
            if !stays {
                running.stop.cancel();
                running.member.backend.close_local_sessions();
            }
            stays
        });
        // A list that was not wanted before, or is wanted more often now, is wanted at once.
        let asks_otherwise = members.aggregation.refresh != aggregation.refresh
            || members.aggregation.capabilities != aggregation.capabilities;
        let asked = members.running.values().cloned().collect::<Vec<_>>();
        members.aggregation = Arc::clone(aggregation);
        members.order = backends
            .iter()
            .map(|configured| configured.name.clone())
            .collect();
        // A backend that is started below is looked at as the new configuration says.
        self.shared.members.store(Arc::new(members.clone()));
        let mut stale = Vec::new();
        for configured in backends {
            match members.running.get(&configured.name) {
                Some(running) => {
                    running.member.backend.set_resilience(&configured.isolation);
                    running.member.backend.set_disposable(configured.disposable);
                    if *running.member.backend.contact() != configured.contact {
                        running.member.backend.set_contact(&configured.contact);
                        stale.push(Arc::clone(running));
                    }
                    running.member.set_settings(configured.isolation.health);
                    running.member.set_terms(&configured.terms);
                }
                None => {
                    let running = Arc::new(self.start(configured, readiness));
                    members.running.insert(configured.name.clone(), running);
                }
            }
        }
        members.note_those_listed_per_session();
        self.shared.members.store(Arc::new(members));
        // Whoever looks now finds the new configuration.
        let asked = asked.into_iter().filter(|_| asks_otherwise);
        for running in asked.chain(stale) {
            running.member.stale.notify_one();
        }
    }

    fn start(&self, configured: &config::BackendSettings, readiness: Option<&Readiness>) -> RunningDiscovery {
        let transport = self.shared.transport.clone();
        let backend = Backend::new(configured, transport);
        backend.set_resilience(&configured.isolation);
        backend.set_metrics(self.shared.metrics.backend(backend.name()));
        let (terms, settings) = (Arc::clone(&configured.terms), configured.isolation.health);
        let member = Arc::new(CatalogBackend::new(backend, terms, settings));
        let stop = CancellationToken::new();
        let first_look = readiness.map(|readiness| {
            readiness.wait_at_most(
                format!("the first look at backend {}", configured.name),
                FIRST_LOOK_PATIENCE,
            )
        });
        let (stopped, drained) = (stop.clone(), self.shared.tasks.drained());
        let stop_sign = async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = drained => {}
            }
        };
        member.set_first_look(first_look);
        let sweeping = discovery::keep_warm(self.clone(), Arc::clone(&member), stop_sign);
        self.shared.tasks.spawn(sweeping);
        RunningDiscovery { member, stop }
    }

    /// Makes a snapshot of what is known now, unless somebody else has made one meanwhile. It takes as long as all that is offered is
    /// large: it is for the threads of [`Compute`](crate::runtime::compute::Compute).
    pub(super) fn merge(&self) {
        let wanted = self.shared.wanted.fetch_add(1, Ordering::AcqRel) + 1;
        let mut merged = self.shared.merging.lock().unwrap_or_else(PoisonError::into_inner);
        if *merged >= wanted {
            return;
        }
        *merged = self.shared.wanted.load(Ordering::Acquire);
        let members = self.members();
        let known: Vec<_> = members
            .in_order()
            .map(|running| (running.member.backend.clone(), running.member.show()))
            .collect();
        let after = Arc::new(merge::merge(&known, &members.aggregation));
        self.shared.metrics.catalog(CatalogSize {
            items: [
                ("tools", after.tools.len()),
                ("prompts", after.prompts.len()),
                ("resources", after.resources.len()),
                ("templates", after.templates.len()),
            ],
            conflicts: after.conflicts.count(),
            faults: after.faults.count(),
            warnings: after.warnings.count(),
        });
        let before = self.shared.snapshot.swap(Arc::clone(&after));
        self.shared.views.forget_all();
        let news = after.conflicts.kept().iter();
        let news = news.filter(|conflict| !before.conflicts.kept().contains(conflict));
        for conflict in news.take(MAX_LOGGED_CONFLICTS) {
            tracing::warn!(%conflict, "a name is claimed twice; `/status` has all such names");
        }
        self.shared.changes.observe(&before, &after);
    }

    /// What is offered now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<CatalogSnapshot> {
        self.shared.snapshot.load_full()
    }

    /// The backend that has the resource `uri`, as far as known.
    #[must_use]
    pub fn resource(&self, uri: &str) -> Option<Backend> {
        let route = self.shared.snapshot.load().resource(uri);
        route.ok().map(|route| route.backend)
    }

    /// What `backend` says it can do; `None` before its first answer.
    #[must_use]
    pub fn capabilities(&self, backend: &BackendName) -> Option<ServerCapabilities> {
        let state = self.members().running.get(backend)?.member.state();
        state.offer.as_ref().map(|offer| offer.capabilities)
    }

    /// Whether `backend` says that it has such a list; `None` before its first answer.
    #[must_use]
    pub fn declares(&self, backend: &BackendName, kind: ListKind) -> Option<bool> {
        let capabilities = self.capabilities(backend)?;
        Some(discovery::needs(kind, capabilities).1)
    }

    /// Whether `backend` gives session ids; `None` before its first answer.
    #[must_use]
    pub fn gives_session_ids(&self, backend: &BackendName) -> Option<bool> {
        let state = self.members().running.get(backend)?.member.state();
        state.offer.as_ref().map(|offer| offer.gives_session_ids)
    }

    /// What `backend` offers, or offered when it last answered; `None` before its first answer.
    #[must_use]
    pub fn offer(&self, backend: &BackendName) -> Option<Arc<BackendOffer>> {
        let state = self.members().running.get(backend)?.member.state();
        state.offer.clone()
    }

    /// The backends that are listed in each client's own session, in the order of the configuration.
    #[must_use]
    pub fn listed_per_session(&self) -> Arc<[Backend]> {
        Arc::clone(&self.shared.members.load().listed_per_session)
    }

    /// The backend of that name, if it is configured now.
    #[must_use]
    pub fn backend(&self, name: &str) -> Option<Backend> {
        let members = self.members();
        members
            .running
            .get(name)
            .map(|running| running.member.backend.clone())
    }

    /// Every backend with what is known of it, in the order of the configuration.
    #[must_use]
    pub fn states(&self) -> Vec<(BackendName, Arc<DiscoveryState>)> {
        let members = self.members();
        let state =
            |running: &Arc<RunningDiscovery>| (running.member.backend.name().clone(), running.member.state());
        members.in_order().map(state).collect()
    }

    /// Every backend, in the order of the configuration.
    #[must_use]
    pub fn backends(&self) -> Vec<Backend> {
        let members = self.members();
        members
            .in_order()
            .map(|running| running.member.backend.clone())
            .collect()
    }

    /// Whether `backend` can be reached: what probes say, and calls.
    #[must_use]
    pub fn health(&self, backend: &BackendName) -> Health {
        let members = self.members();
        let Some(running) = members.running.get(backend) else {
            return Health::Unknown;
        };
        let seen = running.member.state().health;
        match running.member.backend.breaker() {
            BreakerState::Open | BreakerState::HalfOpen if seen == Health::Healthy => Health::Degraded,
            BreakerState::Open | BreakerState::HalfOpen | BreakerState::Closed => seen,
        }
    }

    fn aggregation(&self) -> Arc<Aggregation> {
        Arc::clone(&self.members().aggregation)
    }

    fn members(&self) -> Arc<CatalogBackends> {
        self.shared.members.load_full()
    }
}
