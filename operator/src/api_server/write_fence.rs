//! A fence around writes: after the leader lease may have expired, another operator may write, so this one must not.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{Instant, sleep_until};

/// Until when this process may write. Clones share one deadline; without one, writes are always allowed.
///
/// A process that was stopped goes on in the middle of a reconcile. Leader election alone would stop it only after its next attempt to renew.
/// The clock stands still while the whole machine is suspended: then up to 15 s remain after it wakes.
#[derive(Clone, Debug, Default)]
pub struct WriteFence(Arc<Mutex<Option<Instant>>>);

impl WriteFence {
    /// Allows writes until `deadline`.
    pub fn allow_until(&self, deadline: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
    }

    /// Waits until no write may be sent.
    pub async fn closed(&self) {
        loop {
            let deadline = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match deadline {
                None => std::future::pending().await,
                Some(deadline) if deadline <= Instant::now() => return,
                // It may be later by then.
                Some(deadline) => sleep_until(deadline).await,
            }
        }
    }
}
