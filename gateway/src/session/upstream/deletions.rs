//! Deletes unneeded upstream sessions in tasks of their own, so that no request waits for the deletion.

use crate::backend::{Backend, UpstreamSession};
use crate::runtime::tasks::Tasks;

/// Starts deletions of upstream sessions. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(in crate::session) struct UpstreamDeletions {
    tasks: Tasks,
}

impl UpstreamDeletions {
    pub(in crate::session) fn new(tasks: Tasks) -> Self {
        Self { tasks }
    }

    /// Deletes `session` at `backend` in the background. Without an id there is nothing to delete.
    pub(in crate::session) fn delete(&self, backend: Backend, session: UpstreamSession) {
        if session.id.is_none() {
            return;
        }
        self.tasks.spawn(async move {
            if let Err(error) = backend.enqueue_delete(&session).await {
                tracing::debug!(backend = %backend.name(), %error, "failed to delete upstream session");
            }
        });
    }
}
