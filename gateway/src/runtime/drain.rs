//! The end of the process, in its two phases.
//!
//! First the process *drains*: it reports that it is not ready, still accepts, and asks every client to open its next
//! connection elsewhere, because load balancers learn of the end later than the process does. Then it *closes*: the listener
//! goes, and what is running may finish. Nothing upstream is deleted, because sessions outlive the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// A cheap-clone handle to the phase.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    phases: Arc<Phases>,
}

#[derive(Debug, Default)]
struct Phases {
    draining: DrainPhase,
    closing: DrainPhase,
}

/// One phase. Every request looks whether it has begun, and a token takes a lock to say so.
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
    /// Begins the first phase.
    pub fn begin(&self) {
        self.phases.draining.begin();
    }

    /// Begins the second phase.
    pub fn close(&self) {
        self.phases.draining.begin();
        self.phases.closing.begin();
    }

    /// Whether the first phase has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.phases.draining.has_begun()
    }

    /// Whether the second phase has begun.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.phases.closing.has_begun()
    }

    /// Ends when the first phase begins.
    pub async fn begun(&self) {
        self.phases.draining.token.cancelled().await;
    }

    /// Ends when the second phase begins.
    pub async fn closed(&self) {
        self.phases.closing.token.cancelled().await;
    }
}
