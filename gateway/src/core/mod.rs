//! What the gateway does, whoever asks and in whichever era: list, call.
//!
//! Nothing here knows HTTP servers, Redis or session ids. Who holds the upstream sessions is behind [`Upstreams`].

mod call;
pub mod catalog;
mod upstreams;

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::backend::Transport;
use crate::config::Hot;
use crate::readiness::Readiness;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

use catalog::Catalog;

pub use call::CallError;
pub use upstreams::{UpstreamError, Upstreams};

/// The domain of the gateway. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Core {
    catalog: Catalog,
    metrics: Metrics,
    hot: Arc<ArcSwap<Hot>>,
}

impl Core {
    /// A core that offers what `hot` says. The catalogue is filled in the background; `readiness` waits for the first round.
    #[must_use]
    pub fn new(hot: Hot, transport: Transport, tasks: Tasks, readiness: &Readiness, metrics: Metrics) -> Self {
        let catalog = Catalog::new(transport, tasks, metrics.clone());
        catalog.apply(&hot.backends, Some(readiness));
        Self { catalog, metrics, hot: Arc::new(ArcSwap::from_pointee(hot)) }
    }

    /// Takes a new hot configuration. Calls under way go on with what they began with.
    pub fn apply(&self, hot: Hot) {
        self.catalog.apply(&hot.backends, None);
        self.hot.store(Arc::new(hot));
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
