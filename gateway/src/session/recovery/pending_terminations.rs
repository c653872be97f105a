//! Terminations whose answer did not come in time.
//!
//! The client is told to try again, because nothing may have happened. When it has happened all the same, the record is gone, and with
//! it what it says of upstream sessions: nobody but this process can delete them any more. So it remembers them until it knows. That
//! the session has ended is told by an event; where that was missed, by the store, which is asked once when it answers again. A session
//! that lives then is left alone: its client may have thought better of it. A termination that is on its way even then is waited
//! for a while ([`PATIENCE`]). A process that ends in between leaves the upstream sessions to their backends' idle deadlines.

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

/// How many are remembered. Of more, the upstream sessions are left to their backends.
const MAX: usize = 4096;
/// How long one is remembered whose session lived when the store was asked.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many are looked at at a time.
const AT_A_TIME: usize = 32;

/// The upstream sessions of those that may have ended. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct PendingTerminations(Arc<Mutex<HashMap<RecordKey, PendingTermination>>>);

#[derive(Debug)]
struct PendingTermination {
    upstreams: Vec<(Backend, UpstreamSession)>,
    /// When the store was asked.
    asked: Option<Instant>,
}

impl PendingTerminations {
    /// Remembers that the session `key` may have ended, and with it `upstreams`.
    pub(in crate::session) fn keep(&self, key: RecordKey, upstreams: Vec<(Backend, UpstreamSession)>) {
        let mut endings = self.lock();
        endings.retain(|_, ending| ending.asked.is_none_or(|asked| asked.elapsed() < PATIENCE));
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

    /// Forgets the session `key`, and gives its upstream sessions.
    pub(in crate::session) fn take(&self, key: &RecordKey) -> Vec<(Backend, UpstreamSession)> {
        let ending = self.lock().remove(key);
        ending.map(|ending| ending.upstreams).unwrap_or_default()
    }

    /// Whether the store has to be asked for some.
    pub(in crate::session) fn has_unasked(&self) -> bool {
        self.lock().values().any(|ending| ending.asked.is_none())
    }

    /// Those for which the store has not been asked.
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
    /// Asks the store what became of those that may have ended.
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

    /// Deletes the upstream sessions of the session `key`, which has ended after all.
    pub(in crate::session) fn close_ended(&self, key: &RecordKey) {
        for (backend, upstream) in self.inner.endings.take(key) {
            self.close_upstream(backend, upstream);
        }
    }
}
