//! Every task of the process, so that none is forgotten when it ends.

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
    /// What goes on as long as something runs in `tracker`.
    attendants: TaskTracker,
    quiet: CancellationToken,
    compute: ComputePool,
    fair_queue: FairQueue,
}

impl Tasks {
    /// Runs `work` to its end; [`Self::finish`] waits for it. For work that must not be cut off, such as the deletion of an
    /// upstream session.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(work)
    }

    /// Runs `work` until it ends or the process drains, whichever is first. For loops.
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

    /// Runs `work` until it ends, or the process drains and everything else has ended. For loops that serve what is running: the calls
    /// of a process that drains may run for a long time.
    pub fn spawn_until_quiet<F>(&self, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let quiet = self.quiet.clone();
        self.attendants.spawn(async move {
            tokio::select! {
                () = quiet.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Ends when loops have to. For a loop that has something left to do afterwards.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        self.stop.clone().cancelled_owned()
    }

    /// The threads for work that may take long. Its end is not waited for.
    #[must_use]
    pub(crate) fn compute(&self) -> &ComputePool {
        &self.compute
    }

    /// The queue for the long polls of connections.
    #[must_use]
    pub(crate) fn fair_queue(&self) -> &FairQueue {
        &self.fair_queue
    }

    /// How many run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tracker.len() + self.attendants.len()
    }

    /// Stops the loops and waits until every task has ended.
    pub async fn finish(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.quiet.cancel();
        self.attendants.close();
        self.attendants.wait().await;
        // What the last of those has begun.
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_serves_the_running_calls_goes_on_until_the_last_of_them_has_ended() {
        let tasks = Tasks::default();
        let (served, was_served) = oneshot::channel();
        let ended = Instant::now() + Duration::from_secs(20 * 60);
        tasks.spawn(tokio::time::sleep_until(ended));
        tasks.spawn_until_drain(std::future::pending());
        tasks.spawn_until_quiet(async move {
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
