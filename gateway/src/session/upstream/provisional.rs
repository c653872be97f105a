//! Upstream sessions that no record names yet.
//!
//! There are two reasons. The store did not answer when one was to be bound: the binding may have happened, or may happen still, so that
//! it is kept until that is known. Or the store was out when one was needed, at a backend that has no state to lose
//! (`sessionState: disposable`, or one that gives no session ids): then the session's calls in this process use it meanwhile.
//!
//! A record is never overwritten by one of these. When the store answers again, each is bound if nothing else is bound in its place,
//! and otherwise deleted once the session's requests that may be using it have ended. What a backend asks in one is relayed like
//! everything else, because its place is known, until something else is bound there; from then on the backend gets an error. Of a backend whose state counts there is never
//! a second upstream session in use: its calls wait for the store.
//!
//! That is done beside everything else, also while the process drains. A process that ends while the store does not answer leaves the
//! upstream sessions that it could not bind to the idle deadlines of their backends: whether a record names one is not known to it.

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

/// How many there may be at a time.
const MAX_PENDING: usize = 10_000;
/// How many are bound at a time.
const AT_A_TIME: usize = 32;
/// How often it is looked whether an upstream session is still in use.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long one is kept that seems to be in use.
const MAX_USE: Duration = Duration::from_secs(10 * 60);

/// The upstream sessions that no record names yet. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(in crate::session) struct ProvisionalSessions {
    pending: Arc<Mutex<HashMap<Place, PendingBinding>>>,
    /// Those that have no place any more, as long as requests may be using them. Each has a task that ends it.
    leaving: Arc<Mutex<Vec<(RecordKey, PendingBinding)>>>,
    /// For the one who binds them.
    turn: Arc<Semaphore>,
}

impl Default for ProvisionalSessions {
    fn default() -> Self {
        Self {
            pending: Arc::default(),
            leaving: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

/// Whose, and the name of the backend.
type Place = (RecordKey, String);

#[derive(Clone, Debug)]
pub(in crate::session) struct PendingBinding {
    pub(in crate::session) backend: Backend,
    pub(in crate::session) session: UpstreamSession,
    /// The generation of the binding in the place of which it belongs.
    pub(in crate::session) expected: u64,
}

impl ProvisionalSessions {
    /// The one of the session `key` at `backend`.
    pub(in crate::session) fn get(&self, key: &RecordKey, backend: &Backend) -> Option<PendingBinding> {
        let place = (*key, backend.name().to_string());
        self.lock().get(&place).cloned()
    }

    /// Those of the session `key` at `backend` that somebody may be using.
    pub(in crate::session) fn used(&self, key: &RecordKey, backend: &Backend) -> Vec<PendingBinding> {
        let leaving = lock(&self.leaving).clone();
        let leaving = leaving
            .into_iter()
            .filter(|(other, pending)| other == key && pending.backend.name() == backend.name())
            .map(|(_, pending)| pending);
        self.get(key, backend).into_iter().chain(leaving).collect()
    }

    /// Takes the one of the session `key` at `backend` that belongs behind the generation `expected`.
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

    /// Keeps one. Gives back what has no place.
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

    /// Those of the session `key`.
    pub(in crate::session) fn of(&self, key: &RecordKey) -> Vec<(Backend, UpstreamSession)> {
        let pending = self.lock();
        let own = pending.iter().filter(|((other, _), _)| other == key);
        own.map(|(_, pending)| (pending.backend.clone(), pending.session.clone()))
            .collect()
    }

    /// How many sessions use one.
    pub(in crate::session) fn sessions(&self) -> usize {
        let pending = self.lock();
        let sessions: HashSet<_> = pending.keys().map(|(key, _)| key).collect();
        sessions.len()
    }

    /// All of them. They stay: a request may need one while it is being bound.
    fn all(&self) -> Vec<(RecordKey, PendingBinding)> {
        let pending = self.lock();
        let all = pending.iter();
        all.map(|((key, _), pending)| (*key, pending.clone())).collect()
    }

    /// Forgets `settled`, unless another is in its place by now.
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, PendingBinding>> {
        lock(&self.pending)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// The generation that `upstream` has at `backend` once it is bound, if it waits for that and nothing else is bound in its place.
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

    /// An upstream session at `backend` while the store cannot be asked, because of `unavailable`, in the place of `lost`.
    pub(in crate::session) async fn provisional(
        &self,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
        unavailable: StoreError,
    ) -> Result<UpstreamSession, UpstreamError> {
        let inner = &*self.sessions.inner;
        let disposable = inner.core.hot().is_disposable(backend.name());
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
            // It gives ids after all, so that there is state to lose.
            self.sessions.close_upstream(backend.clone(), session);
            return Err(unavailable.into());
        }
        self.sessions.replay(&record, backend, &session).await;
        self.sessions.keep_for_later(
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
    /// Keeps an upstream session until it is known whether a record names it.
    pub(in crate::session) fn keep_for_later(&self, key: &RecordKey, pending: PendingBinding) {
        if let Err(dropped) = self.inner.provisional.keep(key, pending) {
            self.close_when_quiet(*key, dropped);
        }
    }

    /// Whether something is there to be reconciled, and nobody is at it.
    pub(in crate::session) fn has_to_reconcile(&self) -> bool {
        let provisional = &self.inner.provisional;
        let free = provisional.turn.available_permits() > 0;
        free && (self.inner.endings.has_unasked() || !provisional.lock().is_empty())
    }

    /// Binds what has no place in a record yet, or deletes it. For when the store answers again. Ends when it does not answer any more;
    /// what is left is kept.
    pub(in crate::session) async fn reconcile(&self) {
        let provisional = &self.inner.provisional;
        let Ok(_turn) = provisional.turn.acquire().await else {
            return;
        };
        let settling = provisional.all().into_iter().map(|(key, pending)| async move {
            if self.inner.outage.now().is_some() {
                return;
            }
            match self.adopt(&key, &pending).await {
                Ok(()) => {}
                // The store answers, and this record cannot be read here: there is nothing to wait for.
                Err(error) if error.is_of_record() => self.close_when_quiet(key, pending.clone()),
                Err(_) => return,
            }
            provisional.remove(&key, &pending);
        });
        let settling = stream::iter(settling).buffer_unordered(AT_A_TIME);
        tokio::join!(settling.collect::<()>(), self.settle_pending_terminations());
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
            let reading = inner.proof.stamp_now();
            let bound = inner
                .store
                .bind_backend(key, name, pending.expected, &binding)
                .await;
            match self.observed(StoreOperation::Bind, bound)? {
                BindOutcome::Bound(record) | BindOutcome::Lost(record) => {
                    // It may have lost to itself: to a binding whose answer did not come in time.
                    let bound = record.bindings.get(name).map(|binding| &binding.session);
                    if bound == Some(&pending.session) {
                        inner.writes.note(*key);
                        self.replay(&record, &pending.backend, &pending.session).await;
                        tracing::debug!(backend = name, "an upstream session was adopted");
                    } else {
                        self.close_when_quiet(*key, pending.clone());
                    }
                    inner.cache.put(key, record, reading);
                    inner.streams.changed(key);
                    return Ok(());
                }
                BindOutcome::Gone => {
                    if self.missing(key, None).await?.is_none() {
                        break;
                    }
                }
            }
        }
        self.close_when_quiet(*key, pending.clone());
        Ok(())
    }

    /// Deletes an upstream session as soon as no request of its session is running that may be using it.
    fn close_when_quiet(&self, key: RecordKey, pending: PendingBinding) {
        let sessions = self.clone();
        lock(&self.inner.provisional.leaving).push((key, pending.clone()));
        self.inner.tasks.spawn(async move {
            let limit = Instant::now() + MAX_USE;
            while !sessions.inner.in_flight.is_quiet(&key) && Instant::now() < limit {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            lock(&sessions.inner.provisional.leaving)
                .retain(|(other, left)| *other != key || left.session != pending.session);
            sessions.close_upstream(pending.backend, pending.session);
        });
    }
}
