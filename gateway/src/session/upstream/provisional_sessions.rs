//! The provisional upstream sessions of this process. [`super::provisional`] explains their life.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::backend::{Backend, UpstreamSession};
use crate::session::record::RecordKey;

/// Maximum number of provisional sessions.
const MAX_PENDING: usize = 10_000;

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

/// An upstream session that is not bound, or not known to be.
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
    pub(super) fn all(&self) -> Vec<(RecordKey, PendingBinding)> {
        let pending = self.lock();
        let all = pending.iter();
        all.map(|((key, _), pending)| (*key, pending.clone())).collect()
    }

    /// Removes `settled`, unless another session has replaced it.
    pub(super) fn remove(&self, key: &RecordKey, settled: &PendingBinding) {
        let place = (*key, settled.backend.name().to_string());
        let mut pending = self.lock();
        if pending
            .get(&place)
            .is_some_and(|pending| pending.session == settled.session)
        {
            pending.remove(&place);
        }
    }

    /// Whether no session is provisional.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Whether a reconciliation runs.
    pub(super) fn is_reconciling(&self) -> bool {
        self.reconciling.available_permits() == 0
    }

    /// Waits for the reconciliation that runs, if one does, and begins another. It ends when the permit is dropped.
    pub(super) async fn begin_reconciliation(&self) -> Option<SemaphorePermit<'_>> {
        self.reconciling.acquire().await.ok()
    }

    /// Adds a superseded session of `key`, which requests may still use.
    pub(super) fn add_superseded(&self, key: RecordKey, session: PendingBinding) {
        lock(&self.superseded).push((key, session));
    }

    /// Removes a superseded session of `key`, because it is about to be deleted.
    pub(super) fn remove_superseded(&self, key: &RecordKey, session: &UpstreamSession) {
        lock(&self.superseded).retain(|(other, left)| other != key || left.session != *session);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProvisionalKey, PendingBinding>> {
        lock(&self.pending)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
