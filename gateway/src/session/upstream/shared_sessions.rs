//! The upstream sessions that all clients share (`sharedSession`), in the store: so that every replica, and one that is started anew, goes
//! on with the one that there is. A server that needs this has no second one to give.
//!
//! Whoever opens one writes it; whoever needs one reads it before it opens one. What stands in the store and is another than that in use here
//! is believed if it lives. A write that comes late could name one that is lost: then the one in use is written again.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{join_all, select_all};

use crate::backend::{Backend, BackendError, SharedSession};
use crate::session::Sessions;
use crate::session::recovery::outage::StoreOperation;
use crate::session::store::StoreError;

/// How often it is looked whether the store has the session that is in use.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The pause before a store that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long a backend may take to say whether a session lives.
const PING_DEADLINE: Duration = Duration::from_secs(5);

impl Sessions {
    /// Keeps the shared sessions here and in the store the same, until the process drains.
    pub(in crate::session) async fn share_upstream_sessions(self) {
        let mut news = self.inner.core.catalog().news();
        loop {
            news.mark_unchanged();
            let backends = self.inner.core.catalog().backends();
            let sharing: Vec<_> = backends.into_iter().filter(Backend::shares_session).collect();
            let outcomes = join_all(sharing.iter().map(|backend| self.share_upstream(backend))).await;
            let pause = if outcomes.iter().any(Result::is_err) {
                ASK_AGAIN
            } else {
                LOOK_EVERY
            };
            let wanted = sharing.iter().map(|backend| backend.wants_store().boxed());
            let wanted = async {
                if sharing.is_empty() {
                    std::future::pending::<()>().await;
                }
                select_all(wanted).await;
            };
            tokio::select! {
                () = wanted => {}
                // It cannot fail: the catalogue lives as long as we do.
                _ = news.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn share_upstream(&self, backend: &Backend) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let name = backend.name().as_str();
        if backend.needs_id_block() {
            let number = self.observed(StoreOperation::Offers, inner.store.take_number(name).await)?;
            backend.set_id_block(number);
        }
        let known = backend.shared_session();
        let stored = self.observed(StoreOperation::Offers, inner.store.shared_session(name).await)?;
        let stored = stored.and_then(|bytes| SharedSession::read(backend, &bytes));
        match (known, stored) {
            (None, Some(stored)) => {
                if lives(backend, &stored).await {
                    backend.share_session(stored);
                    inner.core.catalog().refresh(backend.name());
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
                inner.core.catalog().refresh(backend.name());
            }
            (Some(known), _) => self.keep_shared(backend, known).await?,
            (None, None) => {}
        }
        backend.store_was_consulted();
        Ok(())
    }

    async fn keep_shared(&self, backend: &Backend, known: SharedSession) -> Result<(), StoreError> {
        let store = &self.inner.store;
        if store.provider() == "memory" {
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
        self.observed(
            StoreOperation::Offers,
            store.keep_shared_session(name, &bytes).await,
        )?;
        backend.shared_session_is_stored(known.number);
        Ok(())
    }
}

/// Whether the backend knows the session, as far as it says.
async fn lives(backend: &Backend, shared: &SharedSession) -> bool {
    let pinging = tokio::time::timeout(PING_DEADLINE, backend.ping(&shared.greeting.session));
    !matches!(pinging.await, Ok(Err(BackendError::SessionLost)))
}
