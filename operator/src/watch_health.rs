//! Tracks which watches the API server refuses because the operator lacks a right, or because the kind is not installed.
//!
//! A kind whose watch is refused is not known, which is different from having no objects. So the reconcile of a virtual server does what does
//! not depend on this kind, and `/readyz` and conditions say what is missing.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::Resource;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use tokio::sync::watch;
use tokio::time::Instant;
use vmcp_crds::v1alpha1::GROUP;

use crate::error::Error;
use crate::kube_error::{describe_watch_error, watch_error_code};
use crate::metrics::Metrics;
use crate::watch::Scope;

/// Time after which a refusal that is not repeated is over. A refused watch is tried again within 5 seconds, and one that is accepted again
/// may report nothing until an object changes.
const REFUSAL_LIFETIME: Duration = Duration::from_secs(60);

/// The namespace, empty for the whole cluster, and the kind of a watch.
type WatchKey = (String, String);

/// The refused watches of all scopes. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct WatchHealth(watch::Sender<BTreeMap<WatchKey, Refusal>>);

#[derive(Clone, Debug)]
struct Refusal {
    message: String,
    since: Instant,
}

impl Refusal {
    fn is_current(&self) -> bool {
        self.since.elapsed() < REFUSAL_LIFETIME
    }
}

impl WatchHealth {
    /// The watches of one scope.
    #[must_use]
    pub fn of_scope(&self, scope: &Scope, metrics: &Metrics) -> ScopeWatchHealth {
        ScopeWatchHealth {
            health: self.clone(),
            namespace: match scope {
                Scope::Cluster => String::new(),
                Scope::Namespace(namespace) => namespace.clone(),
            },
            metrics: metrics.clone(),
        }
    }

    /// The messages of all refused watches, one for each line.
    #[must_use]
    pub fn refusals(&self) -> String {
        let refused = self.0.borrow();
        let current = refused.values().filter(|refusal| refusal.is_current());
        current.map(|refusal| format!("{}\n", refusal.message)).collect()
    }
}

/// The refused watches of one scope.
#[derive(Clone, Debug)]
pub struct ScopeWatchHealth {
    health: WatchHealth,
    namespace: String,
    metrics: Metrics,
}

impl ScopeWatchHealth {
    /// Records what the watch of a kind has reported.
    pub fn record<K>(&self, event: &Result<watcher::Event<K>, watcher::Error>)
    where
        K: Resource<DynamicType = ()>,
    {
        let key = self.key::<K>();
        match event {
            // A list has begun, and may be refused.
            Ok(watcher::Event::Init) => {}
            Ok(_) => {
                self.health
                    .0
                    .send_if_modified(|refused| refused.remove(&key).is_some());
            }
            Err(error) => {
                self.metrics.record_watch_failure(&key.0, &key.1);
                if let Some(message) = refusal_message::<K>(error) {
                    let refusal = Refusal {
                        message,
                        since: Instant::now(),
                    };
                    self.health
                        .0
                        .send_modify(|refused| drop(refused.insert(key, refusal)));
                }
            }
        }
    }

    /// The message about what is missing, if the watch of a kind is refused.
    #[must_use]
    pub fn refusal<K: Resource<DynamicType = ()>>(&self) -> Option<String> {
        let refused = self.health.0.borrow();
        let refusal = refused.get(&self.key::<K>())?;
        refusal.is_current().then(|| refusal.message.clone())
    }

    /// Waits until the store of a kind has received its first complete list, or the watch is refused.
    ///
    /// # Errors
    /// When the watch ended before.
    pub async fn wait_until_known<K>(&self, store: &Store<K>) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        let key = self.key::<K>();
        let mut refused = self.health.0.subscribe();
        tokio::select! {
            ready = store.wait_until_ready() => ready.map_err(|_| Error::ShuttingDown),
            _ = refused.wait_for(|refused| refused.contains_key(&key)) => Ok(()),
        }
    }

    fn key<K: Resource<DynamicType = ()>>(&self) -> WatchKey {
        (self.namespace.clone(), K::kind(&()).into_owned())
    }
}

/// What is missing and what to do, if `error` says that the operator may not watch the kind, or that there is no such kind.
fn refusal_message<K: Resource<DynamicType = ()>>(error: &watcher::Error) -> Option<String> {
    let (plural, group) = (K::plural(&()), K::group(&()));
    let dot = if group.is_empty() { "" } else { "." };
    match watch_error_code(error)? {
        401 | 403 => Some(format!(
            "the operator needs the rights list and watch for {plural}{dot}{group}: {}",
            describe_watch_error(error)
        )),
        // A list of a kind that exists is empty, even in a namespace that does not exist.
        404 => {
            let remedy = if group == GROUP {
                "install the chart with `helm install vmcp-crds charts/vmcp-crds`, or upgrade it with `helm upgrade vmcp-crds charts/vmcp-crds`"
            } else {
                "this version of Kubernetes does not fit the operator"
            };
            Some(format!(
                "the API server does not have {plural}{dot}{group} (kind {}) in the version {}: {remedy}",
                K::kind(&()),
                K::version(&())
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;
    use kube::core::Status;
    use vmcp_crds::v1alpha1::MCPGroup;

    use super::*;

    fn failure(code: u16) -> watcher::Error {
        let status = Status::failure("no", "Reason").with_code(code);
        watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()))
    }

    // Only what does not pass by itself is a refusal.
    #[test]
    fn missing_right_or_kind_is_a_refusal() {
        let message = refusal_message::<MCPGroup>(&failure(403)).unwrap();
        assert_eq!(
            message,
            "the operator needs the rights list and watch for mcpgroups.vmcp.dev: no (403)"
        );
        let message = refusal_message::<MCPGroup>(&failure(404)).unwrap();
        assert!(
            message.contains("mcpgroups.vmcp.dev (kind MCPGroup) in the version v1alpha1")
                && message.contains("helm install vmcp-crds"),
            "{message}"
        );
        let message = refusal_message::<PodDisruptionBudget>(&failure(404)).unwrap();
        assert!(
            message.contains("poddisruptionbudgets.policy") && !message.contains("helm"),
            "{message}"
        );
        for code in [410, 429, 500, 503] {
            assert_eq!(refusal_message::<MCPGroup>(&failure(code)), None, "{code}");
        }
    }
}
