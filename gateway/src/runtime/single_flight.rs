//! Single flight: concurrent callers with the same target share one attempt and its result.
//!
//! They share a failure, too. Otherwise, with a hanging backend, the callers would time out one after the other.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

/// The running attempts by target. A cheap-clone handle.
pub(crate) struct SingleFlight<T, O> {
    running: Arc<Mutex<RunningAttempts<T, O>>>,
}

type RunningAttempts<T, O> = HashMap<T, Shared<BoxFuture<'static, O>>>;

/// Keeps an attempt registered as running until it is dropped. The work of the attempt holds it, not its callers: all of them may have been
/// dropped, and a caller that arrives after the work has ended must start a new attempt.
pub(crate) struct AttemptGuard<T: Eq + Hash, O> {
    flights: SingleFlight<T, O>,
    target: T,
}

impl<T: Eq + Hash, O> Drop for AttemptGuard<T, O> {
    fn drop(&mut self) {
        self.flights
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.target);
    }
}

impl<T: Clone + Eq + Hash + Send + Sync + 'static, O: Clone + Send + Sync + 'static> SingleFlight<T, O> {
    /// Joins the running attempt for `target`, or starts `attempt`, which holds its guard until it has ended.
    pub(crate) async fn join(
        &self,
        target: T,
        attempt: impl FnOnce(AttemptGuard<T, O>) -> BoxFuture<'static, O> + Send + 'static,
    ) -> O {
        let flight = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = || {
                let guard = AttemptGuard {
                    flights: self.clone(),
                    target: target.clone(),
                };
                async move { attempt(guard).await }.boxed().shared()
            };
            running.entry(target.clone()).or_insert_with(begin).clone()
        };
        flight.await
    }
}

impl<T, O> Clone for SingleFlight<T, O> {
    fn clone(&self) -> Self {
        Self {
            running: Arc::clone(&self.running),
        }
    }
}

impl<T, O> Default for SingleFlight<T, O> {
    fn default() -> Self {
        Self {
            running: Arc::default(),
        }
    }
}

impl<T, O> std::fmt::Debug for SingleFlight<T, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SingleFlight").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// Concurrent callers share one attempt and its failure, and later callers start a new one.
    #[tokio::test]
    async fn concurrent_callers_share_one_attempt() {
        let flights: SingleFlight<&'static str, Result<(), ()>> = SingleFlight::default();
        let attempts = Arc::new(AtomicU32::new(0));
        // Closed until all callers have joined.
        let gate = Arc::new(Semaphore::new(0));
        let join = || {
            let (attempts, gate) = (Arc::clone(&attempts), Arc::clone(&gate));
            flights.join("x", move |guard| {
                async move {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    drop(gate.acquire().await);
                    drop(guard);
                    Err(())
                }
                .boxed()
            })
        };
        let all = futures::future::join_all((0..5).map(|_| join()));
        let (outcomes, ()) = tokio::join!(all, async { gate.add_permits(1) });
        assert!(outcomes.iter().all(Result::is_err));
        assert_eq!(attempts.load(Ordering::Relaxed), 1);
        assert!(join().await.is_err());
        assert_eq!(attempts.load(Ordering::Relaxed), 2);
        assert!(flights.running.lock().unwrap().is_empty());
    }

    /// If all callers of an attempt were dropped, later callers do not get its result.
    #[tokio::test]
    async fn result_of_an_abandoned_attempt_is_not_reused() {
        let flights: SingleFlight<&'static str, u32> = SingleFlight::default();
        let gate = Arc::new(Semaphore::new(0));
        let attempt = |outcome: u32| {
            let gate = Arc::clone(&gate);
            flights.join("x", move |guard| {
                let work = crate::runtime::tasks::Tasks::default().spawn(async move {
                    drop(gate.acquire().await);
                    drop(guard);
                    outcome
                });
                work.map(Result::unwrap_or_default).boxed()
            })
        };
        let mut abandoned = Box::pin(attempt(1));
        assert!(futures::poll!(&mut abandoned).is_pending());
        drop(abandoned);
        gate.add_permits(1);
        while !flights.running.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(attempt(2).await, 2);
    }
}
