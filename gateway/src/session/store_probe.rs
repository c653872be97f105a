//! Probes a store that fails, and settles what was postponed during the outage.

use std::sync::Arc;
use std::time::Duration;

use super::cache::SessionCache;
use super::recovery::observed_store::ObservedStore;
use super::store_readiness::StoreReadiness;
use super::upstream::UpstreamSessions;
use crate::runtime::readiness::ReadinessWait;
use crate::runtime::tasks::Tasks;

/// Interval between probes of a failing store.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// Probes the store while an operation fails or freshness is not proven, so that [`super::Sessions::store_status`] is
/// correct without traffic, and at the start, until the process is ready.
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

    /// Runs until the process has drained. `first_access` is dropped as [`StoreReadiness`] says.
    pub(super) async fn run(self, first_access: ReadinessWait) {
        let outage = self.store.outage();
        let mut readiness = StoreReadiness::new(first_access);
        loop {
            if readiness.is_pending() || outage.is_down() || !self.cache.freshness().is_current() {
                let reads = self.store.probe_reads().await;
                let mut writes = Ok(());
                if reads.is_ok() && (readiness.is_pending() || outage.is_down()) {
                    writes = self.store.probe_writes().await;
                }
                readiness.record(&reads, &writes);
            }
            if outage.current().is_none() && self.upstreams.has_to_reconcile() {
                let upstreams = self.upstreams.clone();
                self.tasks.spawn(async move { upstreams.reconcile().await });
            }
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
    }
}
