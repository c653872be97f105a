//! Readiness of a process that starts: it waits until it has reached its store.
//!
//! States:
//! - *waiting*: the store has not answered yet. After [`MAX_WAIT`] the process is ready without it, because an outage of
//!   the store must not take the endpoints away.
//! - *denied*: the store refuses this process. It is not ready for as long as that lasts, so that a rollout stops at the
//!   first such pod, and the old pods stay. The wait begins again with each denial: a store that restarts meanwhile
//!   makes no refused process ready.
//! - *done*: the process has been ready. It stays so, whatever the store answers later.

use std::time::Duration;

use tokio::time::Instant;

use super::store::StoreError;
use crate::runtime::readiness::ReadinessWait;

/// How long a process that cannot reach its store waits for it.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Decides when a process has waited long enough for its store.
#[derive(Debug)]
pub(super) struct StoreReadiness {
    /// `None` in the state *done*.
    waiting: Option<ReadinessWait>,
    /// When the process started, or was last denied.
    waiting_since: Instant,
    is_denied: bool,
}

impl StoreReadiness {
    /// Begins to wait. `first_access` is dropped when the wait is over.
    pub(super) fn new(first_access: ReadinessWait) -> Self {
        Self {
            waiting: Some(first_access),
            waiting_since: Instant::now(),
            is_denied: false,
        }
    }

    /// Whether the process still waits.
    pub(super) fn is_pending(&self) -> bool {
        self.waiting.is_some()
    }

    /// Records the outcomes of a read and of a write. A store that reads and refuses writes, for example because its
    /// memory is full, has been reached.
    pub(super) fn record(&mut self, reads: &Result<(), StoreError>, writes: &Result<(), StoreError>) {
        if self.waiting.is_none() {
            return;
        }
        let denial = [reads, writes].into_iter().find_map(|outcome| {
            let error = outcome.as_ref().err()?;
            error.is_access_denied().then_some(error)
        });
        if let Some(error) = denial {
            if !self.is_denied {
                tracing::warn!(%error, "not ready while the session store refuses this process");
            }
            self.is_denied = true;
            self.waiting_since = Instant::now();
            return;
        }
        self.is_denied = false;
        let is_reached = reads.is_ok() && writes.as_ref().err().is_none_or(StoreError::is_refusal);
        if is_reached {
            self.waiting = None;
        } else if self.waiting_since.elapsed() >= MAX_WAIT {
            tracing::warn!("ready without the session store, which cannot be reached");
            self.waiting = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::readiness::Readiness;

    const SECOND: Duration = Duration::from_secs(1);

    struct Fixture {
        readiness: Readiness,
        store: StoreReadiness,
    }

    impl Fixture {
        fn start() -> Self {
            let readiness = Readiness::default();
            let store = StoreReadiness::new(readiness.wait_for("the session store"));
            Self { readiness, store }
        }

        /// Whether the process is ready after reads with this outcome, once a second for so many seconds.
        async fn is_ready_after(&mut self, seconds: u32, reads: &Result<(), StoreError>) -> bool {
            for _ in 0..seconds {
                self.store.record(reads, &Ok(()));
                tokio::time::advance(SECOND).await;
            }
            self.store.record(reads, &Ok(()));
            self.readiness.pending().is_empty()
        }
    }

    fn no_answer() -> Result<(), StoreError> {
        Err(StoreError::unavailable("connection refused"))
    }

    fn denied() -> Result<(), StoreError> {
        Err(StoreError::access_denied("wrong password"))
    }

    #[tokio::test(start_paused = true)]
    async fn process_is_ready_when_its_store_answers() {
        let mut fixture = Fixture::start();
        assert!(!fixture.is_ready_after(5, &no_answer()).await);
        assert!(fixture.is_ready_after(0, &Ok(())).await);
        assert!(!fixture.store.is_pending());
    }

    // An outage does not take the endpoints away.
    #[tokio::test(start_paused = true)]
    async fn unreachable_store_is_waited_for_60_s() {
        let mut fixture = Fixture::start();
        assert!(!fixture.is_ready_after(59, &no_answer()).await);
        assert!(fixture.is_ready_after(1, &no_answer()).await);
        let mut loading = Fixture::start();
        let refused = || Err(StoreError::refused("it is loading its data"));
        assert!(!loading.is_ready_after(59, &refused()).await);
        assert!(loading.is_ready_after(1, &refused()).await);
    }

    #[tokio::test(start_paused = true)]
    async fn denied_process_is_not_ready_until_accepted() {
        let mut fixture = Fixture::start();
        assert!(!fixture.is_ready_after(600, &denied()).await);
        assert!(fixture.is_ready_after(0, &Ok(())).await);
        // The user may read, and not write.
        let mut reader = Fixture::start();
        reader.store.record(&Ok(()), &denied());
        assert!(reader.store.is_pending());
    }

    // A store that restarts makes no refused process ready. One that is away for long does.
    #[tokio::test(start_paused = true)]
    async fn wait_begins_again_with_each_denial() {
        let mut fixture = Fixture::start();
        assert!(!fixture.is_ready_after(120, &denied()).await);
        assert!(!fixture.is_ready_after(59, &no_answer()).await);
        assert!(!fixture.is_ready_after(0, &denied()).await);
        assert!(!fixture.is_ready_after(59, &no_answer()).await);
        assert!(fixture.is_ready_after(1, &no_answer()).await);
    }

    #[tokio::test(start_paused = true)]
    async fn ready_process_stays_ready_when_denied() {
        let mut fixture = Fixture::start();
        assert!(fixture.is_ready_after(0, &Ok(())).await);
        assert!(fixture.is_ready_after(120, &denied()).await);
        assert!(fixture.is_ready_after(120, &no_answer()).await);
    }

    // With full memory the store reads and does not write.
    #[tokio::test(start_paused = true)]
    async fn store_that_only_reads_has_been_reached() {
        let mut fixture = Fixture::start();
        fixture.store.record(&Ok(()), &no_answer());
        assert!(fixture.store.is_pending());
        fixture
            .store
            .record(&Ok(()), &Err(StoreError::refused("its memory is full")));
        assert!(!fixture.store.is_pending());
    }
}
