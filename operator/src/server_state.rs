//! State that is kept per virtual server, and per server, between reconciles. It only saves requests and may be lost at any time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::apps::v1::Deployment;
use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;
use vmcp_crds::v1alpha1::{MCPServer, MCPServerStatus, VirtualMCPServer, VirtualMCPServerStatus};

use crate::apply::Applied;
use crate::config_nudge::ConfigNudges;
use crate::installation::InstallationConflict;
use crate::secret_values::ReadCache;
use crate::workload::Workload;

/// Cached state of one virtual server, or of one server, whose status is an `S`.
#[derive(Debug, Default)]
pub struct ServerState<S = VirtualMCPServerStatus> {
    /// The number of reconciles in a row that have failed.
    pub failures: u32,
    /// The number of reconciles in a row in which the API server could not read or write a child whose kind a cluster may not have, by kind.
    pub optional_failures: HashMap<String, u32>,
    /// The time from which Kubernetes is made to create pods again; `None` while it creates them.
    pub next_creation_retry: Option<Instant>,
    /// Another installation that writes the same objects.
    pub installation_conflict: InstallationConflict,
    /// The last apply of each child.
    pub applied: Applied,
    /// The Deployment as the last apply returned it, until the watch shows it.
    pub deployment: Option<Arc<Deployment>>,
    /// The generation of the Deployment after the last apply.
    pub deployment_generation: Option<i64>,
    /// The resource version and the status of the last status write, until the watch shows it.
    pub written_status: Option<(String, S)>,
    /// Nudges of the pods to remount their configuration.
    pub config_nudges: ConfigNudges,
    /// The Secrets and ConfigMaps that were read.
    pub secret_reads: ReadCache,
    /// The MAC of the mounted values that each pod was last annotated with, by pod uid. The watch may still show an older one.
    pub secret_nudges: HashMap<String, String>,
}

/// Cached state of one server.
pub type McpServerState = ServerState<MCPServerStatus>;
/// The cached states of all servers.
pub type McpServerStates = ServerStates<MCPServer>;

/// A state that one reconcile at a time uses.
type Shared<W> = Arc<tokio::sync::Mutex<ServerState<<W as Workload>::Status>>>;

/// The cached states of all resources of one kind.
#[derive(Debug)]
pub struct ServerStates<W: Workload = VirtualMCPServer>(Mutex<HashMap<ObjectRef<W>, Shared<W>>>);

impl<W: Workload> Default for ServerStates<W> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<W: Workload> ServerStates<W> {
    /// The state of one resource. The controller never runs two reconciles of one resource at once, so the lock is uncontended.
    #[must_use]
    pub fn get_or_default(&self, server: &ObjectRef<W>) -> Shared<W> {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.entry(server.clone()).or_default().clone()
    }

    /// Removes the state of a resource that is gone.
    pub fn remove(&self, server: &ObjectRef<W>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(server);
    }
}

/// Whether resource version `a` is later than `b`. Resource versions are increasing numbers: Kubernetes guarantees that since 1.35,
/// and no earlier version behaves differently.
#[must_use]
pub fn is_later(a: Option<&str>, b: Option<&str>) -> bool {
    let number = |version: Option<&str>| version.and_then(|text| text.parse::<u128>().ok());
    number(a) > number(b)
}
