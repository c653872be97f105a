//! One opening at a time: those who want the same upstream session at the same moment share one attempt, and what comes of it.
//!
//! They share a failure too. With a backend that hangs, each of them would otherwise wait for those before it and then for the
//! backend itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

use super::record::RecordKey;
use crate::backend::UpstreamSession;
use crate::core::UpstreamError;

/// What is opened: whose session, at which backend, and in the place of which upstream session.
pub(super) type Target = (RecordKey, String, Option<UpstreamSession>);

type Outcome = Result<UpstreamSession, UpstreamError>;

/// The attempts that are under way. A cheap-clone handle.
#[derive(Clone, Default)]
pub(super) struct Flights {
    under_way: Arc<Mutex<HashMap<Target, Shared<BoxFuture<'static, Outcome>>>>>,
}

impl Flights {
    /// Joins the attempt for `target` that is under way, or begins one with `attempt`.
    pub(super) async fn join(
        &self,
        target: Target,
        attempt: impl FnOnce() -> BoxFuture<'static, Outcome>,
    ) -> Outcome {
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

impl std::fmt::Debug for Flights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Flights")
            .field("under_way", &under_way.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;
    use crate::backend::BackendError;

    #[tokio::test]
    async fn those_who_come_together_share_the_attempt_and_its_failure_and_later_ones_try_again() {
        let (flights, attempts) = (Flights::default(), Arc::new(AtomicU32::new(0)));
        // Closed until all have come.
        let gate = Arc::new(Semaphore::new(0));
        let join = || {
            let (attempts, gate) = (Arc::clone(&attempts), Arc::clone(&gate));
            flights.join((RecordKey([1; 16]), "x".to_owned(), None), move || {
                async move {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    drop(gate.acquire().await);
                    Err(BackendError::Status(500).into())
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
