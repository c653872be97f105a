//! Probes a store that fails, and settles what was postponed during the outage.

use std::sync::Arc;
use std::time::Duration;

use super::cache::SessionCache;
use super::recovery::observed_store::ObservedStore;
use super::upstream::UpstreamSessions;
use crate::runtime::tasks::Tasks;

/// Interval between probes of a failing store.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// Probes the store while an operation fails or freshness is not proven, so that [`super::Sessions::store_status`] is
/// correct without traffic.
#[derive(Debug)]
pub(super) struct StoreProbe {
    store: Arc<ObservedStore>,
    cache: Arc<SessionCache>,
    upstreams: UpstreamSessions,
    tasks: Tasks,
}

impl StoreProbe {
    pub(super) fn new(
        store: Arc<ObservedStore>,
        cache: Arc<SessionCache>,
        upstreams: UpstreamSessions,
        tasks: Tasks,
    ) -> Self {
        Self {
            store,
            cache,
            upstreams,
            tasks,
        }
    }

    /// Runs until the process has drained.
    pub(super) async fn run(self) {
        let outage = self.store.outage();
        loop {
            if outage.is_down() || !self.cache.freshness().is_current() {
                let read = self.store.probe_reads().await;
                if read.is_ok() && outage.is_down() {
                    // The store records the outcome.
                    drop(self.store.probe_writes().await);
                }
            }
            if outage.current().is_none() && self.upstreams.has_to_reconcile() {
                let upstreams = self.upstreams.clone();
                self.tasks.spawn(async move { upstreams.reconcile().await });
            }
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
    }
}
