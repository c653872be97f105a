//! What is offered, and by whom.
//!
//! The catalogue is kept warm by the gateway itself, per backend and for all sessions: a list is answered from memory, and
//! neither a list nor `initialize` waits for a backend. It is one immutable [`Snapshot`] behind a pointer; a change makes a
//! new one.

mod member;
mod merge;
mod sweep;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, Transport};
use crate::config::{self, BackendName};
use crate::readiness::Readiness;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

use member::Member;

pub use member::State;
pub use merge::{Snapshot, Tool};

/// How long readiness waits for the first look at a backend: one that hangs must not keep the others from being served.
const FIRST_LOOK_PATIENCE: Duration = Duration::from_secs(3);

/// Where a call goes.
#[derive(Clone, Debug)]
pub struct Route {
    /// The backend that offers the tool.
    pub backend: Backend,
    /// The tool's name there.
    pub name: Arc<str>,
}

/// The catalogue. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Catalog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    snapshot: ArcSwap<Snapshot>,
    /// The members in use. The lock also orders the making of snapshots, so that an older one never replaces a newer one.
    members: Mutex<BTreeMap<BackendName, Running>>,
    /// The order of the configuration.
    order: Mutex<Vec<BackendName>>,
    transport: Transport,
    tasks: Tasks,
    metrics: Metrics,
}

#[derive(Debug)]
struct Running {
    member: Arc<Member>,
    stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Catalog {
    pub(super) fn new(transport: Transport, tasks: Tasks, metrics: Metrics) -> Self {
        let shared = Shared {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            members: Mutex::default(),
            order: Mutex::default(),
            transport,
            tasks,
            metrics,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Makes `backends` the members: those that stay as they were keep what is known of them.
    pub(super) fn apply(&self, backends: &[config::Backend], readiness: Option<&Readiness>) {
        let mut members = self.shared.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|name, running| {
            let same = |configured: &&config::Backend| {
                configured.name == *name && configured.url == *running.member.backend.url()
            };
            backends.iter().any(|configured| same(&configured))
        });
        for configured in backends {
            if !members.contains_key(&configured.name) {
                let running = self.start(configured, readiness);
                members.insert(configured.name.clone(), running);
            }
        }
        drop(members);
        *self.shared.order.lock().unwrap_or_else(PoisonError::into_inner) = backends
            .iter()
            .map(|configured| configured.name.clone())
            .collect();
        self.merge();
    }

    fn start(&self, configured: &config::Backend, readiness: Option<&Readiness>) -> Running {
        let transport = self.shared.transport.clone();
        let backend = Backend::new(configured.name.clone(), configured.url.clone(), transport);
        let member = Arc::new(Member::new(backend));
        let stop = CancellationToken::new();
        let first_look = readiness.map(|readiness| {
            readiness.wait_at_most(
                format!("the first look at backend {}", configured.name),
                FIRST_LOOK_PATIENCE,
            )
        });
        let sweeping = sweep::keep_warm(self.clone(), Arc::clone(&member), first_look);
        let stopped = stop.clone();
        self.shared.tasks.spawn_until_drain(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = sweeping => {}
            }
        });
        Running { member, stop }
    }

    /// Makes a new snapshot of what is known now.
    fn merge(&self) {
        let members = self.shared.members.lock().unwrap_or_else(PoisonError::into_inner);
        let order = self
            .shared
            .order
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let in_order: Vec<_> = order.iter().filter_map(|name| members.get(name)).collect();
        let snapshot = merge::merge(in_order.into_iter().map(|running| &*running.member));
        self.shared.metrics.tools_offered(snapshot.tools.len());
        self.shared.snapshot.store(Arc::new(snapshot));
    }

    /// What is offered now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// The backend that offers the tool `advertised`. A name with the prefix of a backend whose tools are not known yet is
    /// routed by its prefix, so that a cold process serves the calls of sessions that know the tools already.
    #[must_use]
    pub fn route(&self, advertised: &str) -> Option<Route> {
        let snapshot = self.shared.snapshot.load();
        if let Some(tool) = snapshot.tool(advertised) {
            return Some(Route {
                backend: tool.backend.clone(),
                name: Arc::clone(&tool.name),
            });
        }
        let (prefix, name) = advertised.split_once(merge::SEPARATOR)?;
        let unknown = snapshot
            .unknown
            .iter()
            .find(|backend| backend.name().as_str() == prefix)?;
        Some(Route {
            backend: unknown.clone(),
            name: name.into(),
        })
    }

    /// The backend of that name, if it is configured now.
    #[must_use]
    pub fn backend(&self, name: &str) -> Option<Backend> {
        let members = self.shared.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.get(name).map(|running| running.member.backend.clone())
    }

    /// Every backend with what is known of it, in the order of the configuration.
    #[must_use]
    pub fn states(&self) -> Vec<(BackendName, Arc<State>)> {
        let members = self.shared.members.lock().unwrap_or_else(PoisonError::into_inner);
        let order = self
            .shared
            .order
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let state = |name: BackendName| Some((name.clone(), members.get(&name)?.member.state()));
        order.into_iter().filter_map(state).collect()
    }
}
