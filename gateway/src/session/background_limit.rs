//! Bounds the tasks that outlive the request that started them.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::runtime::tasks::Tasks;

/// Maximum number of such tasks, for example notifications to backends, at a time.
const MAX_TASKS: usize = 1024;

/// Starts background tasks within a limit. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(super) struct BackgroundLimit {
    tasks: Tasks,
    permits: Arc<Semaphore>,
}

impl BackgroundLimit {
    pub(super) fn new(tasks: Tasks) -> Self {
        Self {
            tasks,
            permits: Arc::new(Semaphore::new(MAX_TASKS)),
        }
    }

    /// Runs `work` in a task. Returns `false`, and drops `work`, when too many tasks are running.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return false;
        };
        self.tasks.spawn(async move {
            work.await;
            drop(permit);
        });
        true
    }
}
