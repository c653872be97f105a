//! What the gateway does, whoever asks and in whichever era: list, call, get, read, complete.
//!
//! Nothing here knows HTTP servers, Redis or session ids. Who holds the upstream sessions is behind [`Upstreams`].

mod call;
pub mod catalog;
mod principal;
mod upstreams;

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::backend::Transport;
use crate::config::Hot;
use crate::readiness::Readiness;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

use catalog::Catalog;

pub use call::{CallError, Reply, Subject};
pub use principal::Principal;
pub use upstreams::{UpstreamError, Upstreams};

/// The domain of the gateway. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Core {
    catalog: Catalog,
    metrics: Metrics,
    hot: Arc<ArcSwap<Hot>>,
    hot_error: Arc<ArcSwapOption<String>>,
}

impl Core {
    /// A core that offers what `hot` says. The catalogue is filled in the background; `readiness` waits for the first round.
    #[must_use]
    pub fn new(
        hot: Hot,
        transport: Transport,
        tasks: Tasks,
        readiness: &Readiness,
        metrics: Metrics,
    ) -> Self {
        let catalog = Catalog::new(transport, tasks, metrics.clone());
        catalog.apply(&hot.backends, &hot.aggregation, Some(readiness));
        let hot_error = Arc::new(ArcSwapOption::empty());
        Self {
            catalog,
            metrics,
            hot: Arc::new(ArcSwap::from_pointee(hot)),
            hot_error,
        }
    }

    /// Takes a new hot configuration. Calls under way go on with what they began with.
    pub fn apply(&self, hot: Hot) {
        self.catalog.apply(&hot.backends, &hot.aggregation, None);
        self.hot.store(Arc::new(hot));
        self.hot_error.store(None);
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
    pub fn hot(&self) -> Arc<Hot> {
        self.hot.load_full()
    }

    /// What is offered.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }
}
