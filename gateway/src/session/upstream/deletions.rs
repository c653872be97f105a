//! Upstream sessions that are no longer needed: deleted behind whatever made them superfluous.

use crate::backend::{Backend, UpstreamSession};
use crate::runtime::tasks::Tasks;

/// The deletions under way. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(in crate::session) struct UpstreamDeletions {
    tasks: Tasks,
}

impl UpstreamDeletions {
    pub(in crate::session) fn new(tasks: Tasks) -> Self {
        Self { tasks }
    }

    /// Deletes `session` at `backend`, some time soon.
    pub(in crate::session) fn delete(&self, backend: Backend, session: UpstreamSession) {
        if session.id.is_none() {
            return;
        }
        self.tasks.spawn(async move {
            if let Err(error) = backend.enqueue_delete(&session).await {
                tracing::debug!(backend = %backend.name(), %error, "an upstream session could not be deleted");
            }
        });
    }
}
