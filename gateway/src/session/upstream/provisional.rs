//! Provisional upstream sessions: opened during an outage, and adopted or deleted afterwards.
//!
//! An upstream session becomes provisional in two ways. (a) A bind was not answered: it may have succeeded, or may
//! still succeed. (b) The store was unavailable when a call needed one, at a backend without state to lose
//! (`sessionState: disposable`, or one that gives no session ids); calls in this process use it meanwhile. Other
//! backends' calls wait for the store, so a stateful backend never has two upstream sessions in use.
//!
//! Invariant: a provisional session never replaces a binding. When the store answers, it is *bound* (adopted) if its
//! generation is free. Otherwise it is *superseded*, and deleted after the requests that may use it have ended.
//! Requests from the backend in a provisional session are relayed until it is superseded, and then answered with an
//! error.
//!
//! Reconciliation runs in the background, also while the process drains. If the process ends while the store is
//! unavailable, unbound upstream sessions are left to their backends' idle timeouts, because a record may name them.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::time::Instant;

use super::provisional_sessions::PendingBinding;
use super::{UpstreamSessions, initialize_params};
use crate::backend::{Backend, UpstreamSession};
use crate::core::UpstreamError;
use crate::session::client_session::ClientSession;
use crate::session::record::{Binding, RecordKey};
use crate::session::store::{BindOutcome, StoreError};

/// Maximum number of concurrent binds.
const MAX_CONCURRENT_BINDS: usize = 32;
/// Interval between checks whether a superseded session is still in use.
const USE_CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// Maximum time for which a superseded session is kept while it seems to be in use.
const MAX_USE: Duration = Duration::from_secs(10 * 60);

impl UpstreamSessions {
    /// The generation that `upstream` will have at `backend`, if it is provisional and its generation is free.
    pub(in crate::session) fn provisional_generation(
        &self,
        client: &ClientSession,
        backend: &Backend,
        upstream: &UpstreamSession,
    ) -> Option<u64> {
        let pending = self.inner.upstreams.provisional.get(&client.key, backend)?;
        let same = pending.backend.origin() == backend.origin() && pending.session == *upstream;
        let free = client.record().generation(backend.name().as_str()) == pending.expected;
        (same && free).then_some(pending.expected + 1)
    }

    /// Returns an upstream session at `backend`, other than `lost`, during an outage. Fails with `unavailable` where
    /// a second upstream session could lose state.
    pub(in crate::session) async fn provisional(
        &self,
        client: &ClientSession,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
        unavailable: StoreError,
    ) -> Result<UpstreamSession, UpstreamError> {
        let inner = &*self.inner;
        let disposable = backend.is_disposable();
        let without_ids = inner.core.catalog().gives_session_ids(backend.name()) == Some(false);
        if !inner.store.is_served_without() || !(disposable || without_ids) {
            return Err(unavailable.into());
        }
        let known = inner.upstreams.provisional.get(&client.key, backend);
        if let Some(pending) = known
            && Some(&pending.session) != lost
        {
            return Ok(pending.session);
        }
        let record = Arc::clone(&client.record());
        let session = backend.initialize(&initialize_params(&record)?).await?;
        inner.metrics.handshake(backend.name());
        if session.id.is_some() && !disposable {
            // It gives session ids after all, so it has state to lose.
            inner.teardown.delete_upstream(backend.clone(), session);
            return Err(unavailable.into());
        }
        self.replay_settings(&record, backend, &session).await;
        self.make_provisional(
            &client.key,
            PendingBinding {
                backend: backend.clone(),
                session: session.clone(),
                expected: record.generation(backend.name().as_str()),
            },
        );
        Ok(session)
    }

    /// Makes an upstream session provisional.
    pub(in crate::session) fn make_provisional(&self, key: &RecordKey, pending: PendingBinding) {
        if let Err(dropped) = self.inner.upstreams.provisional.keep(key, pending) {
            self.delete_when_unused(*key, dropped);
        }
    }

    /// Whether there is something to reconcile, and no reconciliation runs.
    pub(in crate::session) fn has_to_reconcile(&self) -> bool {
        let upstreams = &self.inner.upstreams;
        let provisional = &upstreams.provisional;
        let has_cookies = || !upstreams.unstored_cookies.is_empty();
        !provisional.is_reconciling()
            && (upstreams.pending_terminations.has_unasked() || !provisional.is_empty() || has_cookies())
    }

    /// Adopts or deletes provisional sessions and settles pending terminations, after the store answers again. Stops
    /// when the store fails again; the rest stays provisional.
    pub(in crate::session) async fn reconcile(&self) {
        let inner = &*self.inner;
        let provisional = &inner.upstreams.provisional;
        let Some(_permit) = provisional.begin_reconciliation().await else {
            return;
        };
        let settling = provisional.all().into_iter().map(|(key, pending)| async move {
            if inner.store.outage().current().is_some() {
                return;
            }
            match self.adopt(&key, &pending).await {
                Ok(()) => {}
                // The store answers, but this version cannot read the record. Waiting would not help.
                Err(error) if error.is_corrupt_record() => self.delete_when_unused(key, pending.clone()),
                Err(_) => return,
            }
            provisional.remove(&key, &pending);
        });
        let settling = stream::iter(settling).buffer_unordered(MAX_CONCURRENT_BINDS);
        let terminations = &inner.upstreams.pending_terminations;
        tokio::join!(
            settling.collect::<()>(),
            inner.recovery.settle_pending_terminations(terminations)
        );
        self.store_cookies_again().await;
    }

    async fn adopt(&self, key: &RecordKey, pending: &PendingBinding) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let name = pending.backend.name().as_str();
        let binding = Binding {
            origin: pending.backend.origin().to_owned(),
            session: pending.session.clone(),
            generation: pending.expected + 1,
        };
        for _ in 0..2 {
            let stamp = inner.sessions.cache.stamp_now();
            let bound = inner
                .store
                .bind_backend(key, name, pending.expected, &binding)
                .await;
            match bound? {
                BindOutcome::Bound(record) | BindOutcome::Lost(record) => {
                    // The winner may be this very session: an earlier bind succeeded, but its response was lost.
                    let bound = record.bindings.get(name).map(|binding| &binding.session);
                    if bound == Some(&pending.session) {
                        inner.recovery.note_write(*key);
                        self.replay_settings(&record, &pending.backend, &pending.session)
                            .await;
                        tracing::debug!(backend = name, "an upstream session was adopted");
                    } else {
                        self.delete_when_unused(*key, pending.clone());
                    }
                    inner.sessions.cache.insert(key, record, stamp);
                    inner.sessions.streams.changed(key);
                    return Ok(());
                }
                BindOutcome::Gone => {
                    if inner.recovery.resolve_missing(key, None).await?.is_none() {
                        break;
                    }
                }
            }
        }
        self.delete_when_unused(*key, pending.clone());
        Ok(())
    }

    /// Deletes an upstream session once no request of its client session can be using it.
    fn delete_when_unused(&self, key: RecordKey, pending: PendingBinding) {
        let upstreams = self.clone();
        self.inner
            .upstreams
            .provisional
            .add_superseded(key, pending.clone());
        self.inner.tasks.spawn(async move {
            let inner = &*upstreams.inner;
            let limit = Instant::now() + MAX_USE;
            while !inner.sessions.in_flight.is_quiet(&key) && Instant::now() < limit {
                tokio::time::sleep(USE_CHECK_INTERVAL).await;
            }
            inner
                .upstreams
                .provisional
                .remove_superseded(&key, &pending.session);
            inner.teardown.delete_upstream(pending.backend, pending.session);
        });
    }
}
