//! The catalog: what all backends offer, merged into one list per kind.
//!
//! Discovery keeps the catalog current in the background, per backend and for all sessions. So lists are answered from memory, and neither
//! a list nor `initialize` waits for a backend. The merged state is one immutable [`CatalogSnapshot`] behind a pointer; each change makes a
//! new snapshot.
//!
//! Readers take no lock. Lists are parsed and merged on separate threads (`runtime::compute`), so that a huge
//! list of one backend only delays the next snapshot.

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
pub use persisted::encode_offer;
pub use session_view::{SessionList, ViewOwner};
pub use snapshot::{CatalogSnapshot, NotFound};

/// How long readiness waits for the first discovery of a backend. A backend that hangs must not keep the others from being served.
const FIRST_DISCOVERY_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum number of conflicts that one change of the catalog logs.
const MAX_LOGGED_CONFLICTS: usize = 10;

/// Where a request for an item goes: the backend, and the item's name there.
#[derive(Clone, Debug)]
pub struct ItemRoute {
    /// The backend that has the item.
    pub backend: Backend,
    /// The item's name, or URI, at the backend.
    pub name: Arc<str>,
}

/// Handle of the catalog of all backends. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Catalog {
    shared: Arc<CatalogState>,
}

#[derive(Debug)]
struct CatalogState {
    snapshot: ArcSwap<CatalogSnapshot>,
    changes: ListChanges,
    /// Snapshots for single sessions.
    views: SessionViews,
    members: ArcSwap<CatalogBackends>,
    /// Serializes configuration changes. Held only while one is applied.
    applying: Mutex<()>,
    /// Serializes merges, so that an older snapshot never replaces a newer one. Holds the number of the last request that the current
    /// snapshot covers. Locked on the compute threads only.
    merging: Mutex<u64>,
    /// Number of merges that were requested.
    merge_requests: AtomicU64,
    transport: HttpClient,
    tasks: Tasks,
    metrics: Metrics,
}

/// The configured backends at one moment.
#[derive(Clone, Debug, Default)]
struct CatalogBackends {
    running: BTreeMap<BackendName, Arc<RunningDiscovery>>,
    /// Names in the order of the configuration.
    order: Vec<BackendName>,
    aggregation: Arc<Aggregation>,
    /// Backends with `catalog: perSession`.
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
    fn update_listed_per_session(&mut self) {
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
            merge_requests: AtomicU64::default(),
            transport,
            tasks,
            metrics,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Applies a configuration. Backends that stay keep what is known of them. The caller then calls [`Self::merge`] to update the
    /// snapshot.
    pub(super) fn apply(
        &self,
        backends: &[config::BackendSettings],
        aggregation: &Arc<Aggregation>,
        readiness: Option<&Readiness>,
    ) {
        let _guard = self
            .shared
            .applying
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut members = CatalogBackends::clone(&self.members());
        members.running.retain(|_, running| {
            let same =
                |configured: &config::BackendSettings| running.member.backend.is_configured_as(configured);
            let stays = backends.iter().any(same);
            if !stays {
                running.stop.cancel();
                running.member.backend.close_local_sessions();
            }
            stays
        });
        // A list that is newly wanted, or wanted more often, is read at once.
        let is_refresh_due = members.aggregation.refresh != aggregation.refresh
            || members.aggregation.capabilities != aggregation.capabilities;
        let running_before = members.running.values().cloned().collect::<Vec<_>>();
        members.aggregation = Arc::clone(aggregation);
        members.order = backends
            .iter()
            .map(|configured| configured.name.clone())
            .collect();
        // Before the new backends start, so that their discovery reads the new configuration.
        self.shared.members.store(Arc::new(members.clone()));
        let mut stale = Vec::new();
        for configured in backends {
            match members.running.get(&configured.name) {
                Some(running) => {
                    running.member.backend.set_resilience(&configured.resilience);
                    running.member.backend.set_disposable(configured.disposable);
                    if *running.member.backend.contact() != configured.upstream {
                        running.member.backend.set_contact(&configured.upstream);
                        stale.push(Arc::clone(running));
                    }
                    running.member.set_settings(configured.resilience.health);
                    running.member.set_policy(&configured.exposure);
                }
                None => {
                    let running = Arc::new(self.start(configured, readiness));
                    members.running.insert(configured.name.clone(), running);
                }
            }
        }
        members.update_listed_per_session();
        self.shared.members.store(Arc::new(members));
        // After the store, so that the discovery reads the new configuration.
        let running_before = running_before.into_iter().filter(|_| is_refresh_due);
        for running in running_before.chain(stale) {
            running.member.stale.notify_one();
        }
    }

    fn start(&self, configured: &config::BackendSettings, readiness: Option<&Readiness>) -> RunningDiscovery {
        let transport = self.shared.transport.clone();
        let backend = Backend::new(configured, transport);
        backend.set_resilience(&configured.resilience);
        backend.set_metrics(self.shared.metrics.backend(backend.name()));
        let (policy, settings) = (Arc::clone(&configured.exposure), configured.resilience.health);
        let member = Arc::new(CatalogBackend::new(backend, policy, settings));
        let stop = CancellationToken::new();
        let first_discovery = readiness.map(|readiness| {
            readiness.wait_at_most(
                format!("the first discovery of backend {}", configured.name),
                FIRST_DISCOVERY_TIMEOUT,
            )
        });
        let (stopped, drained) = (stop.clone(), self.shared.tasks.drained());
        let stop_signal = async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = drained => {}
            }
        };
        member.set_first_discovery(first_discovery);
        let discovering = discovery::run_discovery(self.clone(), Arc::clone(&member), stop_signal);
        self.shared.tasks.spawn(discovering);
        RunningDiscovery { member, stop }
    }

    /// Makes a snapshot of the current state, unless another thread made one since the call. CPU-heavy for large catalogs: call it on the
    /// threads of [`ComputePool`](crate::runtime::compute::ComputePool).
    pub(super) fn merge(&self) {
        let merge_requests = self.shared.merge_requests.fetch_add(1, Ordering::AcqRel) + 1;
        let mut merged = self.shared.merging.lock().unwrap_or_else(PoisonError::into_inner);
        if *merged >= merge_requests {
            return;
        }
        *merged = self.shared.merge_requests.load(Ordering::Acquire);
        let members = self.members();
        let known: Vec<_> = members
            .in_order()
            .map(|running| (running.member.backend.clone(), running.member.advertise()))
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
        self.shared.views.clear();
        let new_conflicts = after.conflicts.kept().iter();
        let new_conflicts = new_conflicts.filter(|conflict| !before.conflicts.kept().contains(conflict));
        for conflict in new_conflicts.take(MAX_LOGGED_CONFLICTS) {
            tracing::warn!(%conflict, "catalog conflict; see /status for all conflicts");
        }
        self.shared.changes.record(&before, &after);
    }

    /// The current snapshot. It stays valid, but is replaced at the next change.
    #[must_use]
    pub fn snapshot(&self) -> Arc<CatalogSnapshot> {
        self.shared.snapshot.load_full()
    }

    /// The backend that serves the resource `uri`, if one is known.
    #[must_use]
    pub fn resource(&self, uri: &str) -> Option<Backend> {
        let route = self.shared.snapshot.load().resource(uri);
        route.ok().map(|route| route.backend)
    }

    /// The capabilities that `backend` declares; `None` before its first answer.
    #[must_use]
    pub fn capabilities(&self, backend: &BackendName) -> Option<ServerCapabilities> {
        let state = self.members().running.get(backend)?.member.state();
        state.offer.as_ref().map(|offer| offer.capabilities)
    }

    /// Whether `backend` declares a list of that kind; `None` before its first answer.
    #[must_use]
    pub fn declares(&self, backend: &BackendName, kind: ListKind) -> Option<bool> {
        let capabilities = self.capabilities(backend)?;
        Some(discovery::required_capability(kind, capabilities).1)
    }

    /// Whether `backend` issues session ids; `None` before its first answer.
    #[must_use]
    pub fn gives_session_ids(&self, backend: &BackendName) -> Option<bool> {
        let state = self.members().running.get(backend)?.member.state();
        state.offer.as_ref().map(|offer| offer.gives_session_ids)
    }

    /// The last successful offer of the first backend; `None` before its first answer.
    #[must_use]
    pub fn first_offer(&self) -> Option<Arc<BackendOffer>> {
        let (_, state) = self.states().into_iter().next()?;
        state.offer.clone()
    }

    /// Waits until the first backend has answered.
    pub async fn wait_for_first_offer(&self) {
        let mut news = self.any_changes();
        while self.first_offer().is_none() {
            if news.changed().await.is_err() {
                return;
            }
        }
    }

    /// The last successful offer of `backend`; `None` before its first answer.
    #[must_use]
    pub fn offer(&self, backend: &BackendName) -> Option<Arc<BackendOffer>> {
        let state = self.members().running.get(backend)?.member.state();
        state.offer.clone()
    }

    /// Backends with `catalog: perSession`, in the order of the configuration.
    #[must_use]
    pub fn listed_per_session(&self) -> Arc<[Backend]> {
        Arc::clone(&self.shared.members.load().listed_per_session)
    }

    /// The backend with that name, if it is configured.
    #[must_use]
    pub fn backend(&self, name: &str) -> Option<Backend> {
        let members = self.members();
        members
            .running
            .get(name)
            .map(|running| running.member.backend.clone())
    }

    /// All backends and their discovery states, in the order of the configuration.
    #[must_use]
    pub fn states(&self) -> Vec<(BackendName, Arc<DiscoveryState>)> {
        let members = self.members();
        let state =
            |running: &Arc<RunningDiscovery>| (running.member.backend.name().clone(), running.member.state());
        members.in_order().map(state).collect()
    }

    /// All backends, in the order of the configuration.
    #[must_use]
    pub fn backends(&self) -> Vec<Backend> {
        let members = self.members();
        members
            .in_order()
            .map(|running| running.member.backend.clone())
            .collect()
    }

    /// Health of `backend` by discovery, probes and the circuit breaker: with an open breaker it is degraded at best.
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
