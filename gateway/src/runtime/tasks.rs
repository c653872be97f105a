//! Tracks all tasks of the process, so that the shutdown can wait for them.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::runtime::compute::ComputePool;
use crate::runtime::fair_queue::FairQueue;

/// A cheap-clone handle to the process's tasks.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Tasks that run as long as a task of `tracker` does.
    supporting: TaskTracker,
    idle: CancellationToken,
    compute: ComputePool,
    fair_queue: FairQueue,
}

impl Tasks {
    /// Runs `work` to completion. [`Self::finish`] waits for it. For work that must not be interrupted, such as the deletion of an upstream
    /// session.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(work)
    }

    /// Runs `work` until it ends or [`Self::finish`] is called, whichever is first. For loops.
    pub fn spawn_until_drain<F>(&self, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Runs `work` until it ends, or until all tasks of [`Self::spawn`] have ended after [`Self::finish`] was called. For loops that running
    /// calls depend on, because calls may run for a long time after that.
    pub fn spawn_until_idle<F>(&self, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let idle = self.idle.clone();
        self.supporting.spawn(async move {
            tokio::select! {
                () = idle.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Waits until loops must end. For a loop that has to clean up afterwards.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        self.stop.clone().cancelled_owned()
    }

    /// The threads for CPU-bound work. [`Self::finish`] does not wait for them.
    #[must_use]
    pub(crate) fn compute(&self) -> &ComputePool {
        &self.compute
    }

    /// The round-robin queue for connections with long polls.
    #[must_use]
    pub(crate) fn fair_queue(&self) -> &FairQueue {
        &self.fair_queue
    }

    /// The number of running tasks.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tracker.len() + self.supporting.len()
    }

    /// Stops the loops and waits until every task has ended.
    pub async fn finish(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.idle.cancel();
        self.supporting.close();
        self.supporting.wait().await;
        // Tasks that the supporting tasks have spawned.
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::*;

    /// Tasks that running calls depend on continue until the last call has ended.
    #[tokio::test(start_paused = true)]
    async fn supporting_task_outlives_the_last_call() {
        let tasks = Tasks::default();
        let (served, was_served) = oneshot::channel();
        let ended = Instant::now() + Duration::from_secs(20 * 60);
        tasks.spawn(tokio::time::sleep_until(ended));
        tasks.spawn_until_drain(std::future::pending());
        tasks.spawn_until_idle(async move {
            tokio::time::sleep_until(ended - Duration::from_secs(1)).await;
            served.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        assert_eq!(tasks.running(), 3);
        tasks.finish().await;
        assert_eq!(Instant::now(), ended);
        assert!(was_served.await.is_ok());
        assert_eq!(tasks.running(), 0);
    }
}
