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

use futures::stream::{self, StreamExt as _};
use tokio::time::Instant;

use super::outage::StoreOperation;
use crate::backend::{Backend, UpstreamSession};
use crate::session::Sessions;
use crate::session::record::RecordKey;
use crate::session::store::LoadOutcome;

/// Maximum number of pending terminations. Upstream sessions of further ones are left to their backends.
const MAX: usize = 4096;
/// Time for which a termination stays pending after the session was found alive.
const RETENTION: Duration = Duration::from_secs(60);
/// Maximum number of concurrent reads.
const AT_A_TIME: usize = 32;

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
    pub(in crate::session) fn keep(&self, key: RecordKey, upstreams: Vec<(Backend, UpstreamSession)>) {
        let mut endings = self.lock();
        endings.retain(|_, ending| ending.asked.is_none_or(|asked| asked.elapsed() < RETENTION));
        if upstreams.is_empty() || (endings.len() >= MAX && !endings.contains_key(&key)) {
            return;
        }
        endings.insert(
            key,
            PendingTermination {
                upstreams,
                asked: None,
            },
        );
    }

    /// Removes the termination of `key` and returns its upstream sessions.
    pub(in crate::session) fn take(&self, key: &RecordKey) -> Vec<(Backend, UpstreamSession)> {
        let ending = self.lock().remove(key);
        ending.map(|ending| ending.upstreams).unwrap_or_default()
    }

    /// Whether the store must still be asked about some termination.
    pub(in crate::session) fn has_unasked(&self) -> bool {
        self.lock().values().any(|ending| ending.asked.is_none())
    }

    /// Sessions about which the store has not been asked.
    fn unasked(&self) -> Vec<RecordKey> {
        let endings = self.lock();
        let unasked = endings.iter().filter(|(_, ending)| ending.asked.is_none());
        unasked.map(|(key, _)| *key).collect()
    }

    fn lives(&self, key: &RecordKey) {
        if let Some(ending) = self.lock().get_mut(key) {
            ending.asked = Some(Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RecordKey, PendingTermination>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// Reads the sessions of pending terminations to learn their outcome.
    pub(in crate::session) async fn settle_pending_terminations(&self) {
        let keys = self.inner.endings.unasked();
        let settling = keys.into_iter().map(|key| async move {
            if self.inner.outage.now().is_some() {
                return;
            }
            match self.observed(StoreOperation::Load, self.inner.store.load(&key).await) {
                Ok(LoadOutcome::Found(_)) => self.inner.endings.lives(&key),
                Ok(LoadOutcome::Gone) => match self.missing(&key, None).await {
                    Ok(Some(_)) => self.inner.endings.lives(&key),
                    Ok(None) => self.close_ended(&key),
                    Err(_) => {}
                },
                Err(error) if error.is_of_record() => self.inner.endings.lives(&key),
                Err(_) => {}
            }
        });
        stream::iter(settling)
            .buffer_unordered(AT_A_TIME)
            .collect::<()>()
            .await;
    }

    /// Deletes the upstream sessions of `key` after its termination is confirmed.
    pub(in crate::session) fn close_ended(&self, key: &RecordKey) {
        for (backend, upstream) in self.inner.endings.take(key) {
            self.close_upstream(backend, upstream);
        }
    }
}
