//! Terminations whose outcome is unknown, because the store's response did not arrive in time.
//!
//! The client gets an error and may try again. If the termination happened all the same, the record with the upstream
//! bindings is gone, and only this process can still delete the upstream sessions. So it keeps them until the outcome
//! is known: from the event, or from one read after the store answers again. If the session is alive then, it keeps
//! them for [`RETENTION`], because the termination may still be on its way. If this process ends first, the backends'
//! idle timeouts remove the upstream sessions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{Backend, UpstreamSession};
use crate::session::record::RecordKey;

/// Maximum number of pending terminations. Upstream sessions of further ones are left to their backends.
const MAX_PENDING: usize = 4096;
/// Time for which a termination stays pending after the session was found alive.
const RETENTION: Duration = Duration::from_secs(60);

/// Upstream sessions of client sessions that may have ended. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct PendingTerminations(Arc<Mutex<HashMap<RecordKey, PendingTermination>>>);

#[derive(Debug)]
struct PendingTermination {
    upstreams: Vec<(Backend, UpstreamSession)>,
    /// When the store was asked and reported the session alive.
    asked: Option<Instant>,
}

impl PendingTerminations {
    /// Adds a termination of `key` whose outcome is unknown.
    pub(in crate::session) fn add(&self, key: RecordKey, upstreams: Vec<(Backend, UpstreamSession)>) {
        let mut pending = self.lock();
        pending.retain(|_, termination| termination.asked.is_none_or(|asked| asked.elapsed() < RETENTION));
        if upstreams.is_empty() || (pending.len() >= MAX_PENDING && !pending.contains_key(&key)) {
            return;
        }
        pending.insert(
            key,
            PendingTermination {
                upstreams,
                asked: None,
            },
        );
    }

    /// Removes the termination of `key` and returns its upstream sessions.
    pub(in crate::session) fn take(&self, key: &RecordKey) -> Vec<(Backend, UpstreamSession)> {
        let termination = self.lock().remove(key);
        termination
            .map(|termination| termination.upstreams)
            .unwrap_or_default()
    }

    /// Whether the store must still be asked about some termination.
    pub(in crate::session) fn has_unasked(&self) -> bool {
        self.lock()
            .values()
            .any(|termination| termination.asked.is_none())
    }

    /// Sessions about which the store has not been asked.
    pub(super) fn unasked(&self) -> Vec<RecordKey> {
        let pending = self.lock();
        let unasked = pending
            .iter()
            .filter(|(_, termination)| termination.asked.is_none());
        unasked.map(|(key, _)| *key).collect()
    }

    pub(super) fn mark_alive(&self, key: &RecordKey) {
        if let Some(termination) = self.lock().get_mut(key) {
            termination.asked = Some(Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RecordKey, PendingTermination>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
