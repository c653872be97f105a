//! Shutdown of the process in two phases.
//!
//! *Draining*: the process reports that it is not ready and asks clients to reconnect elsewhere, but still accepts connections, because load
//! balancers notice the shutdown later than the process does. *Closing*: the listener is closed, and running requests may finish. Upstream
//! sessions are not deleted, because client sessions outlive the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// A cheap-clone handle to the state of the shutdown.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    phases: Arc<Phases>,
}

#[derive(Debug, Default)]
struct Phases {
    draining: DrainPhase,
    closing: DrainPhase,
}

/// One phase. Every request checks whether it has begun. The flag exists because the token takes a lock for that check.
#[derive(Debug, Default)]
struct DrainPhase {
    begun: AtomicBool,
    token: CancellationToken,
}

impl DrainPhase {
    fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        self.token.cancel();
    }

    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }
}

impl Drain {
    /// Begins the draining phase.
    pub fn begin(&self) {
        self.phases.draining.begin();
    }

    /// Begins the closing phase, and the draining phase if it has not begun.
    pub fn close(&self) {
        self.phases.draining.begin();
        self.phases.closing.begin();
    }

    /// Whether the draining phase has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.phases.draining.has_begun()
    }

    /// Whether the closing phase has begun.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.phases.closing.has_begun()
    }

    /// Waits until the draining phase begins.
    pub async fn begun(&self) {
        self.phases.draining.token.cancelled().await;
    }

    /// Waits until the closing phase begins.
    pub async fn closed(&self) {
        self.phases.closing.token.cancelled().await;
    }
}
