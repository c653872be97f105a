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

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::backend::{Backend, UpstreamSession};
use crate::core::UpstreamError;
use crate::session::record::{Binding, RecordKey};
use crate::session::recovery::outage::StoreOperation;
use crate::session::store::{BindOutcome, StoreError};
use crate::session::{Session, Sessions};

/// Maximum number of provisional sessions.
const MAX_PENDING: usize = 10_000;
/// Maximum number of concurrent binds.
const MAX_CONCURRENT_BINDS: usize = 32;
/// Interval between checks whether a superseded session is still in use.
const USE_CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// Maximum time for which a superseded session is kept while it seems to be in use.
const MAX_USE: Duration = Duration::from_secs(10 * 60);

/// The provisional upstream sessions. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(in crate::session) struct ProvisionalSessions {
    pending: Arc<Mutex<HashMap<ProvisionalKey, PendingBinding>>>,
    /// Superseded sessions that requests may still use. Each has a task that deletes it.
    superseded: Arc<Mutex<Vec<(RecordKey, PendingBinding)>>>,
    /// Held by the one reconciliation that runs.
    reconciling: Arc<Semaphore>,
}

impl Default for ProvisionalSessions {
    fn default() -> Self {
        Self {
            pending: Arc::default(),
            superseded: Arc::default(),
            reconciling: Arc::new(Semaphore::new(1)),
        }
    }
}

/// Client session and backend name.
type ProvisionalKey = (RecordKey, String);

#[derive(Clone, Debug)]
pub(in crate::session) struct PendingBinding {
    pub(in crate::session) backend: Backend,
    pub(in crate::session) session: UpstreamSession,
    /// The generation that the binding replaces. It is adopted only if the record has this one.
    pub(in crate::session) expected: u64,
}

impl ProvisionalSessions {
    /// The provisional session of `key` at `backend`.
    pub(in crate::session) fn get(&self, key: &RecordKey, backend: &Backend) -> Option<PendingBinding> {
        let place = (*key, backend.name().to_string());
        self.lock().get(&place).cloned()
    }

    /// Provisional and superseded sessions of `key` at `backend` that a request may use.
    pub(in crate::session) fn used(&self, key: &RecordKey, backend: &Backend) -> Vec<PendingBinding> {
        let superseded = lock(&self.superseded).clone();
        let superseded = superseded
            .into_iter()
            .filter(|(other, pending)| other == key && pending.backend.name() == backend.name())
            .map(|(_, pending)| pending);
        self.get(key, backend).into_iter().chain(superseded).collect()
    }

    /// Takes the provisional session of `key` at `backend` that follows the generation `expected`.
    pub(in crate::session) fn take(
        &self,
        key: &RecordKey,
        backend: &Backend,
        expected: u64,
    ) -> Option<UpstreamSession> {
        let place = (*key, backend.name().to_string());
        let mut pending = self.lock();
        let fits = pending.get(&place).is_some_and(|pending| {
            pending.expected == expected && pending.backend.origin() == backend.origin()
        });
        let taken = if fits { pending.remove(&place) } else { None };
        taken.map(|pending| pending.session)
    }

    /// Adds a provisional session. Returns the one that must be deleted: `new` if the limit is reached, or the one
    /// that it replaces.
    pub(in crate::session) fn keep(
        &self,
        key: &RecordKey,
        new: PendingBinding,
    ) -> Result<(), PendingBinding> {
        let place = (*key, new.backend.name().to_string());
        let mut pending = self.lock();
        if pending.len() >= MAX_PENDING && !pending.contains_key(&place) {
            return Err(new);
        }
        let session = new.session.clone();
        match pending.insert(place, new) {
            Some(previous) if previous.session != session => Err(previous),
            Some(_) | None => Ok(()),
        }
    }

    /// The provisional sessions of `key`.
    pub(in crate::session) fn of(&self, key: &RecordKey) -> Vec<(Backend, UpstreamSession)> {
        let pending = self.lock();
        let own = pending.iter().filter(|((other, _), _)| other == key);
        own.map(|(_, pending)| (pending.backend.clone(), pending.session.clone()))
            .collect()
    }

    /// Number of client sessions with a provisional session.
    pub(in crate::session) fn sessions(&self) -> usize {
        let pending = self.lock();
        let sessions: HashSet<_> = pending.keys().map(|(key, _)| key).collect();
        sessions.len()
    }

    /// All provisional sessions. They remain, because a request may need one while it is being bound.
    fn all(&self) -> Vec<(RecordKey, PendingBinding)> {
        let pending = self.lock();
        let all = pending.iter();
        all.map(|((key, _), pending)| (*key, pending.clone())).collect()
    }

    /// Removes `settled`, unless another session has replaced it.
    fn remove(&self, key: &RecordKey, settled: &PendingBinding) {
        let place = (*key, settled.backend.name().to_string());
        let mut pending = self.lock();
        if pending
            .get(&place)
            .is_some_and(|pending| pending.session == settled.session)
        {
            pending.remove(&place);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProvisionalKey, PendingBinding>> {
        lock(&self.pending)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// The generation that `upstream` will have at `backend`, if it is provisional and its generation is free.
    pub(in crate::session) fn provisional_generation(
        &self,
        backend: &Backend,
        upstream: &UpstreamSession,
    ) -> Option<u64> {
        let pending = self.sessions.inner.provisional.get(&self.key, backend)?;
        let same = pending.backend.origin() == backend.origin() && pending.session == *upstream;
        let free = self.record().generation(backend.name().as_str()) == pending.expected;
        (same && free).then_some(pending.expected + 1)
    }

    /// Returns an upstream session at `backend`, other than `lost`, during an outage. Fails with `unavailable` where
    /// a second upstream session could lose state.
    pub(in crate::session) async fn provisional(
        &self,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
        unavailable: StoreError,
    ) -> Result<UpstreamSession, UpstreamError> {
        let inner = &*self.sessions.inner;
        let disposable = backend.is_disposable();
        let without_ids = inner.core.catalog().gives_session_ids(backend.name()) == Some(false);
        if !self.sessions.serves_without_store() || !(disposable || without_ids) {
            return Err(unavailable.into());
        }
        let known = inner.provisional.get(&self.key, backend);
        if let Some(pending) = known
            && Some(&pending.session) != lost
        {
            return Ok(pending.session);
        }
        let record = Arc::clone(&self.record());
        let session = backend
            .initialize(&crate::session::upstream::initialize_params(&record)?)
            .await?;
        inner.metrics.handshake(backend.name());
        if session.id.is_some() && !disposable {
            // It gives session ids after all, so it has state to lose.
            self.sessions.delete_upstream(backend.clone(), session);
            return Err(unavailable.into());
        }
        self.sessions.replay(&record, backend, &session).await;
        self.sessions.make_provisional(
            &self.key,
            PendingBinding {
                backend: backend.clone(),
                session: session.clone(),
                expected: record.generation(backend.name().as_str()),
            },
        );
        Ok(session)
    }
}

impl Sessions {
    /// Makes an upstream session provisional.
    pub(in crate::session) fn make_provisional(&self, key: &RecordKey, pending: PendingBinding) {
        if let Err(dropped) = self.inner.provisional.keep(key, pending) {
            self.delete_when_unused(*key, dropped);
        }
    }

    /// Whether there is something to reconcile, and no reconciliation runs.
    pub(in crate::session) fn has_to_reconcile(&self) -> bool {
        let provisional = &self.inner.provisional;
        let free = provisional.reconciling.available_permits() > 0;
        let has_cookies = || !self.inner.unstored_cookies.is_empty();
        free && (self.inner.pending_terminations.has_unasked()
            || !provisional.lock().is_empty()
            || has_cookies())
    }

    /// Adopts or deletes provisional sessions and settles pending terminations, after the store answers again. Stops
    /// when the store fails again; the rest stays provisional.
    pub(in crate::session) async fn reconcile(&self) {
        let provisional = &self.inner.provisional;
        let Ok(_permit) = provisional.reconciling.acquire().await else {
            return;
        };
        let settling = provisional.all().into_iter().map(|(key, pending)| async move {
            if self.inner.outage.current().is_some() {
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
        tokio::join!(settling.collect::<()>(), self.settle_pending_terminations());
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
            let stamp = inner.freshness.stamp_now();
            let bound = inner
                .store
                .bind_backend(key, name, pending.expected, &binding)
                .await;
            match self.observed(StoreOperation::Bind, bound)? {
                BindOutcome::Bound(record) | BindOutcome::Lost(record) => {
                    // The winner may be this very session: an earlier bind succeeded, but its response was lost.
                    let bound = record.bindings.get(name).map(|binding| &binding.session);
                    if bound == Some(&pending.session) {
                        inner.recent_writes.note(*key);
                        self.replay(&record, &pending.backend, &pending.session).await;
                        tracing::debug!(backend = name, "an upstream session was adopted");
                    } else {
                        self.delete_when_unused(*key, pending.clone());
                    }
                    inner.cache.insert(key, record, stamp);
                    inner.streams.changed(key);
                    return Ok(());
                }
                BindOutcome::Gone => {
                    if self.resolve_missing(key, None).await?.is_none() {
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
        let sessions = self.clone();
        lock(&self.inner.provisional.superseded).push((key, pending.clone()));
        self.inner.tasks.spawn(async move {
            let limit = Instant::now() + MAX_USE;
            while !sessions.inner.in_flight.is_quiet(&key) && Instant::now() < limit {
                tokio::time::sleep(USE_CHECK_INTERVAL).await;
            }
            lock(&sessions.inner.provisional.superseded)
                .retain(|(other, left)| *other != key || left.session != pending.session);
            sessions.delete_upstream(pending.backend, pending.session);
        });
    }
}
