//! Upstream sessions that are no longer needed: deleted behind whatever made them superfluous.
//!
//! A backend that hangs must not gather deletions without end: so many run at a time, so many wait, and one beyond that is left to
//! the backend's own idle deadline.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::backend::{Backend, UpstreamSession};
use crate::tasks::Tasks;

/// How many run at a time.
const AT_A_TIME: usize = 32;
/// How many there may be, those that wait included.
const AT_MOST: usize = 8192;

/// The deletions under way. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(super) struct Deletions {
    tasks: Tasks,
    all: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl Deletions {
    pub(super) fn new(tasks: Tasks) -> Self {
        Self {
            tasks,
            all: Arc::new(Semaphore::new(AT_MOST)),
            running: Arc::new(Semaphore::new(AT_A_TIME)),
        }
    }

    /// Deletes `session` at `backend`, some time soon.
    pub(super) fn delete(&self, backend: Backend, session: UpstreamSession) {
        if session.id.is_none() {
            return;
        }
        let Ok(counted) = Arc::clone(&self.all).try_acquire_owned() else {
            tracing::warn!(backend = %backend.name(), "too many upstream sessions are to be deleted; one is left to its own end");
            return;
        };
        let running = Arc::clone(&self.running);
        self.tasks.spawn(async move {
            let permit = running.acquire_owned().await;
            if let Err(error) = backend.close(&session).await {
                tracing::debug!(backend = %backend.name(), %error, "an upstream session could not be deleted");
            }
            drop((permit, counted));
        });
    }
}
