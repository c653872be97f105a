//! One at a time: those who want the same thing at the same moment share one attempt, and what comes of it.
//!
//! They share a failure too. With a backend that hangs, each of them would otherwise wait for those before it and then for the
//! backend itself.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

/// The attempts that are under way, by what they are for. A cheap-clone handle.
pub(crate) struct SingleFlight<T, O> {
    under_way: Arc<Mutex<SharedAttempt<T, O>>>,
}

type SharedAttempt<T, O> = HashMap<T, Shared<BoxFuture<'static, O>>>;

/// The place of an attempt among those that are under way. It is given up when this value is dropped, which is for whoever does the
/// work: those who wait for it may all have gone, and the next one who comes wants an attempt of his own.
pub(crate) struct Place<T: Eq + Hash, O> {
    flights: SingleFlight<T, O>,
    target: T,
}

impl<T: Eq + Hash, O> Drop for Place<T, O> {
    fn drop(&mut self) {
        self.flights
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.target);
    }
}

impl<T: Clone + Eq + Hash + Send + Sync + 'static, O: Clone + Send + Sync + 'static> SingleFlight<T, O> {
    /// Joins the attempt for `target` that is under way, or begins one with `attempt`, which keeps its place until it is over.
    pub(crate) async fn join(
        &self,
        target: T,
        attempt: impl FnOnce(Place<T, O>) -> BoxFuture<'static, O> + Send + 'static,
    ) -> O {
        let flight = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = || {
                let place = Place {
                    flights: self.clone(),
                    target: target.clone(),
                };
                async move { attempt(place).await }.boxed().shared()
            };
            under_way.entry(target.clone()).or_insert_with(begin).clone()
        };
        flight.await
    }
}

impl<T, O> Clone for SingleFlight<T, O> {
    fn clone(&self) -> Self {
        Self {
            under_way: Arc::clone(&self.under_way),
        }
    }
}

impl<T, O> Default for SingleFlight<T, O> {
    fn default() -> Self {
        Self {
            under_way: Arc::default(),
        }
    }
}

impl<T, O> std::fmt::Debug for SingleFlight<T, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn those_who_come_together_share_the_attempt_and_its_failure_and_later_ones_try_again() {
        let flights: SingleFlight<&'static str, Result<(), ()>> = SingleFlight::default();
        let attempts = Arc::new(AtomicU32::new(0));
        // Closed until all have come.
        let gate = Arc::new(Semaphore::new(0));
        let join = || {
            let (attempts, gate) = (Arc::clone(&attempts), Arc::clone(&gate));
            flights.join("x", move |place| {
                async move {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    drop(gate.acquire().await);
                    drop(place);
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
        assert!(flights.under_way.lock().unwrap().is_empty());
    }
    #[tokio::test]
    async fn what_came_of_an_attempt_that_everybody_has_left_is_nobodys_answer() {
        let flights: SingleFlight<&'static str, u32> = SingleFlight::default();
        let gate = Arc::new(Semaphore::new(0));
        let attempt = |outcome: u32| {
            let gate = Arc::clone(&gate);
            flights.join("x", move |place| {
                let work = crate::runtime::tasks::Tasks::default().spawn(async move {
                    drop(gate.acquire().await);
                    drop(place);
                    outcome
                });
                work.map(Result::unwrap_or_default).boxed()
            })
        };
        let mut left = Box::pin(attempt(1));
        assert!(futures::poll!(&mut left).is_pending());
        drop(left);
        gate.add_permits(1);
        while !flights.under_way.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(attempt(2).await, 2);
    }
}
