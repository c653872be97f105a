//! The HTTP+SSE connections of this process, by client session.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::{Backend, UpstreamSession};
use crate::session::record::RecordKey;

/// Number of sessions at which closed connections are first removed.
const SWEEP_AT: usize = 64;

/// Connections per client session, by backend name. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct SseConnections(Arc<Mutex<Connections>>);

#[derive(Debug, Default)]
struct Connections {
    sessions: HashMap<RecordKey, BTreeMap<String, (Backend, UpstreamSession)>>,
    /// Number of sessions at which closed connections are next removed.
    sweep_at: usize,
}

impl SseConnections {
    /// The open connection of `key` to `backend`.
    pub(in crate::session) fn get(&self, key: &RecordKey, backend: &Backend) -> Option<UpstreamSession> {
        let known = self.lock();
        let (owner, upstream) = known.sessions.get(key)?.get(backend.name().as_str())?;
        let open = owner.origin() == backend.origin() && backend.local_session_number(upstream).is_some();
        open.then(|| upstream.clone())
    }

    /// All open connections of `key`.
    pub(in crate::session) fn of(&self, key: &RecordKey) -> Vec<(Backend, UpstreamSession)> {
        let known = self.lock();
        let all = known.sessions.get(key).into_iter().flat_map(BTreeMap::values);
        all.filter(|(backend, upstream)| backend.local_session_number(upstream).is_some())
            .cloned()
            .collect()
    }

    /// Adds a connection of `key` to `backend`.
    pub(super) fn put(&self, key: RecordKey, backend: &Backend, upstream: UpstreamSession) {
        let mut known = self.lock();
        if known.sessions.len() >= known.sweep_at.max(SWEEP_AT) {
            known.sessions.retain(|_, connections| {
                connections.retain(|_, (backend, upstream)| backend.local_session_number(upstream).is_some());
                !connections.is_empty()
            });
            // Bounds the map to twice the number of open connections.
            known.sweep_at = known.sessions.len() * 2;
        }
        let connections = known.sessions.entry(key).or_default();
        connections.insert(backend.name().to_string(), (backend.clone(), upstream));
    }

    /// Removes the connections of `key` and returns them.
    pub(in crate::session) fn take(&self, key: &RecordKey) -> Vec<(Backend, UpstreamSession)> {
        let taken = self.lock().sessions.remove(key).unwrap_or_default();
        taken.into_values().collect()
    }

    /// Whether there are connections of `key`, open or closed.
    pub(in crate::session) fn has(&self, key: &RecordKey) -> bool {
        self.lock().sessions.contains_key(key)
    }

    /// The client sessions that have connections.
    pub(super) fn keys(&self) -> Vec<RecordKey> {
        self.lock().sessions.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
