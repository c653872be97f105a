//! What the gateway does, whoever asks and in whichever era: list, call, get, read, complete.
//!
//! Nothing here knows HTTP servers, Redis or session ids. Who holds the upstream sessions is behind [`UpstreamSessions`].

mod backend_call;
mod principal;
mod upstream_sessions;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use http::HeaderName;
use tokio::sync::Semaphore;

use crate::backend::HttpClient;
use crate::budget::Budget;
use crate::config::HotSettings;
use crate::runtime::readiness::Readiness;
use crate::runtime::tasks::Tasks;
use crate::telemetry::Metrics;

use crate::catalog::Catalog;

pub use backend_call::{CallError, CallReply, CallSubject, LocatedCall, RoutedCall, locate};
pub use principal::Principal;
pub use upstream_sessions::{UpstreamError, UpstreamSessions};

/// How many cancellations may be on their way to backends at a time.
const MAX_CANCELLING: usize = 1024;

/// The domain of the gateway. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Core {
    catalog: Catalog,
    metrics: Metrics,
    budget: Budget,
    hot: Arc<ArcSwap<HotSettings>>,
    hot_error: Arc<ArcSwapOption<String>>,
    tasks: Tasks,
    /// Bounds the cancellations that are on their way to backends.
    cancelling: Arc<Semaphore>,
}

impl Core {
    /// A core that offers what `hot` says. The catalogue is filled in the background; `readiness` waits for the first round.
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
        // Nothing is known of any of them, so that it takes no time.
        catalog.merge();
        let hot_error = Arc::new(ArcSwapOption::empty());
        Self {
            catalog,
            metrics,
            budget,
            hot: Arc::new(ArcSwap::from_pointee(hot)),
            hot_error,
            tasks,
            cancelling: Arc::new(Semaphore::new(MAX_CANCELLING)),
        }
    }

    /// Takes a new hot configuration. Calls under way go on with what they began with.
    pub async fn apply(&self, hot: HotSettings) {
        set_limits(&self.budget, &hot);
        self.catalog.apply(&hot.backends, &hot.aggregation, None);
        let (catalog, meter) = (self.catalog.clone(), Arc::default());
        let merging = self.tasks.compute().run(&meter, move || catalog.merge());
        if let Err(error) = merging.await {
            tracing::error!(%error, "cannot merge what the backends offer");
        }
        self.hot.store(Arc::new(hot));
        self.hot_error.store(None);
    }

    /// The bytes that the process buffers.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Keeps the hot configuration in use, because its file says so again.
    pub fn accept(&self) {
        self.hot_error.store(None);
    }

    /// Keeps the hot configuration in use, because the new one was refused for `reason`.
    pub fn refuse(&self, reason: String) {
        self.hot_error.store(Some(Arc::new(reason)));
    }

    /// Why the last hot configuration was refused, if it was.
    #[must_use]
    pub fn hot_error(&self) -> Option<String> {
        self.hot_error.load().as_deref().cloned()
    }

    /// The hot configuration in use.
    #[must_use]
    pub fn hot(&self) -> Guard<Arc<HotSettings>> {
        self.hot.load()
    }

    /// Which headers of clients any backend gets.
    #[must_use]
    pub fn passed_headers(&self) -> Arc<[HeaderName]> {
        Arc::clone(&self.hot.load().pass_headers)
    }

    /// The longest that a call may last, as long as no progress extends it.
    #[must_use]
    pub fn longest_call(&self) -> Duration {
        let hot = self.hot();
        let calls = hot
            .backends
            .iter()
            .map(|backend| backend.contact.timeouts.longest_call());
        calls.max().unwrap_or_default()
    }

    /// What is offered.
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
