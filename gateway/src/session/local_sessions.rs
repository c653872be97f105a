//! What this process holds of the client sessions that it serves.

use std::sync::Arc;

use super::cache::SessionCache;
use super::cache::pending_touches::PendingTouches;
use super::in_flight::InFlightRequests;
use super::stream::StreamRegistry;

/// Cached records, open GET streams and running requests. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(super) struct LocalSessions {
    pub(super) cache: Arc<SessionCache>,
    /// The sessions' GET streams that are open in this process.
    pub(super) streams: StreamRegistry,
    pub(super) in_flight: InFlightRequests,
    /// Sessions whose idle deadline is to be moved in the store.
    pub(super) pending_touches: Arc<PendingTouches>,
}

impl LocalSessions {
    pub(super) fn new(cache: SessionCache) -> Self {
        Self {
            cache: Arc::new(cache),
            streams: StreamRegistry::default(),
            in_flight: InFlightRequests::default(),
            pending_touches: Arc::default(),
        }
    }
}
