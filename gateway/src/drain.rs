//! The end of the process, in its two phases.
//!
//! First the process *drains*: it reports that it is not ready, still accepts, and asks every client to open its next
//! connection elsewhere, because load balancers learn of the end later than the process does. Then it *closes*: the listener
//! goes, and what is running may finish. Nothing upstream is deleted, because sessions outlive the process.

use tokio_util::sync::CancellationToken;

/// A cheap-clone handle to the phase.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    draining: CancellationToken,
    closing: CancellationToken,
}

impl Drain {
    /// Begins the first phase.
    pub fn begin(&self) {
        self.draining.cancel();
    }

    /// Begins the second phase.
    pub fn close(&self) {
        self.draining.cancel();
        self.closing.cancel();
    }

    /// Whether the first phase has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Ends when the first phase begins.
    pub async fn begun(&self) {
        self.draining.cancelled().await;
    }

    /// Ends when the second phase begins.
    pub async fn closed(&self) {
        self.closing.cancelled().await;
    }
}
