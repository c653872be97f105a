//! Keeps upstream sessions that all clients share (`sharedSession`) in the store, so that every replica, also after a
//! restart, uses the same one. A server with this setting has no second session to give.
//!
//! The replica that opens a shared session saves it; a replica that needs one reads the store before it opens one. If
//! the store names another session than the one in use here, that one is used if it is alive. A late write may name a
//! lost session; then the session in use is saved again.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{join_all, select_all};

use crate::backend::{Backend, BackendError, SessionScope, SharedSession, random_id_block};
use crate::core::Core;
use crate::session::recovery::observed_store::ObservedStore;
use crate::session::store::StoreError;

/// Interval between checks that the store has the session in use.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Pause before a failed store operation is retried.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Maximum time for a backend to answer `ping`.
const PING_DEADLINE: Duration = Duration::from_secs(5);

/// Keeps the shared sessions of this process and of the store equal.
#[derive(Debug)]
pub(in crate::session) struct SharedSessionSync {
    store: Arc<ObservedStore>,
    core: Core,
}

impl SharedSessionSync {
    pub(in crate::session) fn new(store: Arc<ObservedStore>, core: Core) -> Self {
        Self { store, core }
    }

    /// Background task. Runs until the process drains.
    pub(in crate::session) async fn run(self) {
        let mut news = self.core.catalog().any_changes();
        loop {
            news.mark_unchanged();
            let backends = self.core.catalog().backends();
            let sharing: Vec<_> = backends.into_iter().filter(Backend::shares_session).collect();
            let outcomes = join_all(sharing.iter().map(|backend| self.share_upstream(backend))).await;
            let pause = if outcomes.iter().any(Result::is_err) {
                RETRY_PAUSE
            } else {
                CHECK_INTERVAL
            };
            let wanted = sharing
                .iter()
                .map(|backend| backend.wait_for_store_request().boxed());
            let wanted = async {
                if sharing.is_empty() {
                    std::future::pending::<()>().await;
                }
                select_all(wanted).await;
            };
            tokio::select! {
                () = wanted => {}
                // Cannot fail: the catalog holds the sender and outlives this task.
                _ = news.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn share_upstream(&self, backend: &Backend) -> Result<(), StoreError> {
        if backend.session_scope() == SessionScope::ProcessLocal {
            // Each replica has a session of its own, so nothing is in the store.
            backend.note_store_read();
            return Ok(());
        }
        let name = backend.name().as_str();
        self.claim_id_block(backend).await?;
        let known = backend.shared_session();
        let stored = self.store.shared_session(name).await?;
        let stored = stored.and_then(|bytes| SharedSession::read(backend, &bytes));
        match (known, stored) {
            (None, Some(stored)) => {
                if lives(backend, &stored).await {
                    backend.share_session(stored);
                    self.core.catalog().refresh(backend.name());
                }
            }
            (Some(known), Some(stored)) if known.number == stored.number && known.is_stored => {}
            (Some(known), Some(stored)) if known.is_stored && lives(backend, &stored).await => {
                tracing::info!(
                    backend = name,
                    "another process has opened a session for all clients"
                );
                drop(known);
                backend.share_session(stored);
                self.core.catalog().refresh(backend.name());
            }
            (Some(known), _) => self.keep_shared(backend, known).await?,
            (None, None) => {}
        }
        backend.note_store_read();
        Ok(())
    }

    /// Renews the claim of the block in which this process counts its ids, or claims another one if that is used up.
    /// If the store has lost the claim and given the block to another process, this process takes another block.
    async fn claim_id_block(&self, backend: &Backend) -> Result<(), StoreError> {
        let name = backend.name().as_str();
        let is_held = !backend.needs_id_block();
        let wanted = if is_held {
            backend.id_block()
        } else {
            random_id_block()
        };
        let claimed = self.store.claim_id_block(name, wanted, is_held).await?;
        if !is_held || claimed != wanted {
            backend.set_id_block(claimed);
        }
        Ok(())
    }

    async fn keep_shared(&self, backend: &Backend, known: SharedSession) -> Result<(), StoreError> {
        if self.store.unobserved().provider() == "memory" {
            return Ok(());
        }
        let name = backend.name().as_str();
        let Some(bytes) = known.write(backend) else {
            tracing::warn!(
                backend = name,
                "the session of all clients cannot be kept for other replicas"
            );
            return Ok(());
        };
        self.store.keep_shared_session(name, &bytes).await?;
        backend.mark_shared_session_stored(known.number);
        Ok(())
    }
}

/// Whether the backend knows the session, if it can tell.
async fn lives(backend: &Backend, shared: &SharedSession) -> bool {
    let pinging = tokio::time::timeout(PING_DEADLINE, backend.ping(&shared.initialize_result.session));
    !matches!(pinging.await, Ok(Err(BackendError::SessionLost)))
}
