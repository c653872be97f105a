//! The upstream sessions that are connections of this process, and stand in no record: those at servers of HTTP+SSE.
//!
//! A connection lives as long as its session, however seldom the session uses it: what the server keeps for it cannot be had again. It
//! ends with its session: at once where the end is told or seen, otherwise when the session has not been used here for as long as
//! sessions may be idle and the store says that it has ended. It ends, too, when the session is forgotten here to make room for others.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::record::{Record, RecordKey};
use super::{Session, Sessions};
use crate::backend::{Backend, UpstreamSession};
use crate::core::UpstreamError;

/// How many sessions may be looked after before those without a connection are swept out.
const SWEEP_AT: usize = 64;

/// The shortest time between two looks at the sessions that have connections.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The connections of each session, by the backend's name. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Local(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    sessions: HashMap<RecordKey, BTreeMap<String, (Backend, UpstreamSession)>>,
    /// How many sessions there may be before the next sweep.
    sweep_at: usize,
}

impl Local {
    /// The connection of the session `key` to `backend`, if it is open.
    pub(super) fn get(&self, key: &RecordKey, backend: &Backend) -> Option<UpstreamSession> {
        let known = self.lock();
        let (owner, upstream) = known.sessions.get(key)?.get(backend.name().as_str())?;
        let open = owner.origin() == backend.origin() && backend.stream_number(upstream).is_some();
        open.then(|| upstream.clone())
    }

    /// Every open connection of the session `key`.
    pub(super) fn of(&self, key: &RecordKey) -> Vec<(Backend, UpstreamSession)> {
        let known = self.lock();
        let all = known.sessions.get(key).into_iter().flat_map(BTreeMap::values);
        all.filter(|(backend, upstream)| backend.stream_number(upstream).is_some())
            .cloned()
            .collect()
    }

    fn put(&self, key: RecordKey, backend: &Backend, upstream: UpstreamSession) {
        let mut known = self.lock();
        if known.sessions.len() >= known.sweep_at.max(SWEEP_AT) {
            known.sessions.retain(|_, connections| {
                connections.retain(|_, (backend, upstream)| backend.stream_number(upstream).is_some());
                !connections.is_empty()
            });
            // Never more than twice as many as are open.
            known.sweep_at = known.sessions.len() * 2;
        }
        let connections = known.sessions.entry(key).or_default();
        connections.insert(backend.name().to_string(), (backend.clone(), upstream));
    }

    /// Forgets the session `key`, and gives its connections.
    pub(super) fn take(&self, key: &RecordKey) -> Vec<(Backend, UpstreamSession)> {
        let taken = self.lock().sessions.remove(key).unwrap_or_default();
        taken.into_values().collect()
    }

    fn keys(&self) -> Vec<RecordKey> {
        self.lock().sessions.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// Ends the connections of sessions that live no longer, or are not remembered here any more, until the process drains.
    pub(super) async fn look_after_connections(self) {
        let idle = self.inner.settings.lifetimes.idle;
        loop {
            tokio::time::sleep(idle.clamp(MIN_PAUSE, MAX_PAUSE)).await;
            for key in self.inner.local.keys() {
                match self.inner.cache.peek(&key) {
                    None => self.close_connections(&key),
                    Some(entry) if entry.lives_on(idle) => {}
                    // It may be in use at another process.
                    Some(_) => self.look_again(&key).await,
                }
            }
        }
    }
}

impl Session {
    /// Opens a connection in which this session is the backend's session, unless there is one that is not `lost`.
    pub(super) async fn connect(
        &self,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
        record: &Record,
    ) -> Result<UpstreamSession, UpstreamError> {
        let inner = &*self.sessions.inner;
        let open = inner.local.get(&self.key, backend);
        if let Some(open) = open.filter(|open| Some(open) != lost) {
            return Ok(open);
        }
        self.may_open(backend, lost)?;
        let upstream = backend.initialize(&super::upstreams::hello(record)?).await?;
        inner.metrics.handshake(backend.name());
        inner.local.put(self.key, backend, upstream.clone());
        self.sessions.replay(record, backend, &upstream).await;
        self.hear(backend, &upstream).await;
        self.streams().changed(&self.key);
        Ok(upstream)
    }
}
