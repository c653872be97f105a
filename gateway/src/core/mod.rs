//! The domain operations of the gateway, the same for all callers and both protocol eras: list, call, get, read, complete.
//!
//! Nothing here depends on an HTTP server, Redis or sessions of clients. An operation takes a [`Caller`], or the part of it that the
//! operation needs: a session of the legacy era is one, and a request of the modern era will be another.

mod backend_call;
mod caller;
mod lost_session_retry;
mod principal;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use tokio::sync::Semaphore;

use crate::backend::HttpClient;
use crate::budget::Budget;
use crate::catalog::Catalog;
use crate::config::HotSettings;
use crate::runtime::readiness::Readiness;
use crate::runtime::tasks::Tasks;
use crate::telemetry::Metrics;

pub use backend_call::{CallError, CallReply, CallSubject, Contest, LocatedCall, RoutedCall, locate};
pub use caller::{Caller, ClientView, IssuedIds, RelayedIdKind, UpstreamError, UpstreamOpener};
pub use principal::Principal;

/// How many cancellations and refusals may be in flight to backends at a time.
const MAX_ENDING_MESSAGES: usize = 1024;

/// The domain of the gateway. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Core {
    catalog: Catalog,
    metrics: Metrics,
    budget: Budget,
    hot: Arc<ArcSwap<HotSettings>>,
    hot_error: Arc<ArcSwapOption<String>>,
    tasks: Tasks,
    /// Bounds the cancellations and refusals that are in flight to backends.
    ending_messages: Arc<Semaphore>,
}

impl Core {
    /// Creates a core for the backends of `hot`. Discovery fills the catalog in the background; `readiness` waits for its first round.
    #[must_use]
    pub fn new(
        hot: HotSettings,
        transport: HttpClient,
        tasks: Tasks,
        readiness: &Readiness,
        metrics: Metrics,
    ) -> Self {
        let budget = transport.budget().clone();
        set_limits(&budget, &hot);
        let catalog = Catalog::new(transport, tasks.clone(), metrics.clone());
        catalog.apply(&hot.backends, &hot.aggregation, Some(readiness));
        // No backend has answered yet, so this merge is cheap.
        catalog.merge();
        let hot_error = Arc::new(ArcSwapOption::empty());
        Self {
            catalog,
            metrics,
            budget,
            hot: Arc::new(ArcSwap::from_pointee(hot)),
            hot_error,
            tasks,
            ending_messages: Arc::new(Semaphore::new(MAX_ENDING_MESSAGES)),
        }
    }

    /// Applies a new hot configuration. Running calls keep the one that they started with.
    pub async fn apply(&self, hot: HotSettings) {
        set_limits(&self.budget, &hot);
        self.catalog.apply(&hot.backends, &hot.aggregation, None);
        let (catalog, meter) = (self.catalog.clone(), Arc::default());
        let merging = self.tasks.compute().run(&meter, move || catalog.merge());
        if let Err(error) = merging.await {
            tracing::error!(%error, "failed to merge the catalog");
        }
        self.hot.store(Arc::new(hot));
        self.hot_error.store(None);
    }

    /// The budget for bytes that the process buffers.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Clears the reload error: the file is the configuration in use again.
    pub fn accept(&self) {
        self.hot_error.store(None);
    }

    /// Records that a reload was rejected for `reason`. The configuration in use stays.
    pub fn refuse(&self, reason: String) {
        self.hot_error.store(Some(Arc::new(reason)));
    }

    /// Why the last reload was rejected, if it was.
    #[must_use]
    pub fn hot_error(&self) -> Option<String> {
        self.hot_error.load().as_deref().cloned()
    }

    /// The hot configuration in use.
    #[must_use]
    pub fn hot(&self) -> Guard<Arc<HotSettings>> {
        self.hot.load()
    }

    /// The longest deadline of any call, before progress extends it.
    #[must_use]
    pub fn longest_call(&self) -> Duration {
        let hot = self.hot();
        let calls = hot
            .backends
            .iter()
            .map(|backend| backend.upstream.timeouts.longest_call());
        calls.max().unwrap_or_default()
    }

    /// The catalog of all backends.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }
}

fn set_limits(budget: &Budget, hot: &HotSettings) {
    let limits = &hot.limits;
    budget.set(
        limits.buffered_bytes,
        limits.request_bytes_in_flight,
        limits.request_bytes,
    );
}
