//! Upstream sessions whose latest cookies are not in the store, because it did not answer.
//!
//! While the store is unavailable, no response waits for an attempt to store cookies. This process sends the cookies
//! from its own memory, and stores them once the store answers again. They are lost if the process ends before that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::{Backend, UpstreamSession};
use crate::session::client_session::ClientSession;
use crate::session::record::RecordKey;

/// Maximum number of upstream sessions. Cookies of further ones are stored with the session's next response.
const MAX_UPSTREAMS: usize = 10_000;

/// The upstream sessions whose cookies are to be stored. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct UnstoredCookies(Arc<Mutex<HashMap<(RecordKey, String), Unstored>>>);

/// One upstream session, with the client session that it belongs to.
#[derive(Clone, Debug)]
pub(in crate::session) struct Unstored {
    pub(in crate::session) client: ClientSession,
    pub(in crate::session) backend: Backend,
    pub(in crate::session) upstream: UpstreamSession,
}

impl UnstoredCookies {
    /// Adds `upstream`. Returns `false` if the limit is reached.
    pub(in crate::session) fn keep(
        &self,
        client: &ClientSession,
        backend: &Backend,
        upstream: &UpstreamSession,
    ) -> bool {
        let place = (client.key, backend.name().to_string());
        let mut unstored = self.lock();
        if unstored.len() >= MAX_UPSTREAMS && !unstored.contains_key(&place) {
            return false;
        }
        let kept = Unstored {
            client: client.clone(),
            backend: backend.clone(),
            upstream: upstream.clone(),
        };
        unstored.insert(place, kept);
        true
    }

    /// Whether all cookies are in the store.
    pub(in crate::session) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Removes all upstream sessions and returns them.
    pub(in crate::session) fn take(&self) -> Vec<Unstored> {
        let taken = std::mem::take(&mut *self.lock());
        taken.into_values().collect()
    }

    /// Removes those of the client session `key`, which has ended.
    pub(in crate::session) fn forget(&self, key: &RecordKey) {
        let mut forgotten = Vec::new();
        let mut unstored = self.lock();
        if !unstored.is_empty() {
            forgotten.extend(unstored.extract_if(|(other, _), _| other == key));
        }
        drop(unstored);
        // Dropped without the lock: the last handle of a client session frees what belongs to it.
        drop(forgotten);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(RecordKey, String), Unstored>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
