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
pub(super) struct Flights<T, O> {
    under_way: Arc<Mutex<UnderWay<T, O>>>,
}

type UnderWay<T, O> = HashMap<T, Shared<BoxFuture<'static, O>>>;

impl<T: Clone + Eq + Hash + Send + 'static, O: Clone + Send + Sync + 'static> Flights<T, O> {
    /// Joins the attempt for `target` that is under way, or begins one with `attempt`.
    pub(super) async fn join(&self, target: T, attempt: impl FnOnce() -> BoxFuture<'static, O>) -> O {
        let flight = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = || {
                let (flights, done, attempt) = (self.clone(), target.clone(), attempt());
                let flight = async move {
                    let outcome = attempt.await;
                    let mut under_way = flights.under_way.lock().unwrap_or_else(PoisonError::into_inner);
                    under_way.remove(&done);
                    outcome
                };
                flight.boxed().shared()
            };
            under_way.entry(target.clone()).or_insert_with(begin).clone()
        };
        flight.await
    }
}

impl<T, O> Clone for Flights<T, O> {
    fn clone(&self) -> Self {
        Self {
            under_way: Arc::clone(&self.under_way),
        }
    }
}

impl<T, O> Default for Flights<T, O> {
    fn default() -> Self {
        Self {
            under_way: Arc::default(),
        }
    }
}

impl<T, O> std::fmt::Debug for Flights<T, O> {
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
        let flights: Flights<&'static str, Result<(), ()>> = Flights::default();
        let attempts = Arc::new(AtomicU32::new(0));
        // Closed until all have come.
        let gate = Arc::new(Semaphore::new(0));
        let join = || {
            let (attempts, gate) = (Arc::clone(&attempts), Arc::clone(&gate));
            flights.join("x", move || {
                async move {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    drop(gate.acquire().await);
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
}
