//! Cookies of upstream sessions that the store does not know, because it did not answer.
//!
//! While the store is out no answer waits for an attempt: the cookies are sent from here, and written once, when it answers again. A
//! process that ends before that takes them with it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backend::{Backend, UpstreamSession};
use crate::session::Session;
use crate::session::record::RecordKey;

/// How many upstream sessions may have some. Those of more are tried with each of their answers.
const MAX: usize = 10_000;

/// The upstream sessions whose cookies are to be stored.
#[derive(Debug, Default)]
pub(in crate::session) struct UnstoredCookies(Mutex<HashMap<(RecordKey, String), Unstored>>);

/// One of them, with the session that has it.
#[derive(Clone, Debug)]
pub(in crate::session) struct Unstored {
    pub(in crate::session) session: Session,
    pub(in crate::session) backend: Backend,
    pub(in crate::session) upstream: UpstreamSession,
}

impl UnstoredCookies {
    /// Remembers that the cookies of `upstream` are to be stored. `false` where there is no place.
    pub(in crate::session) fn keep(
        &self,
        session: &Session,
        backend: &Backend,
        upstream: &UpstreamSession,
    ) -> bool {
        let place = (session.key, backend.name().to_string());
        let mut unstored = self.lock();
        if unstored.len() >= MAX && !unstored.contains_key(&place) {
            return false;
        }
        let kept = Unstored {
            session: session.clone(),
            backend: backend.clone(),
            upstream: upstream.clone(),
        };
        unstored.insert(place, kept);
        true
    }

    /// Whether there are any.
    pub(in crate::session) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Takes all of them.
    pub(in crate::session) fn take(&self) -> Vec<Unstored> {
        let taken = std::mem::take(&mut *self.lock());
        taken.into_values().collect()
    }

    /// Forgets those of the session `key`, which has ended.
    pub(in crate::session) fn forget(&self, key: &RecordKey) {
        let mut forgotten = Vec::new();
        let mut unstored = self.lock();
        if !unstored.is_empty() {
            forgotten.extend(unstored.extract_if(|(other, _), _| other == key));
        }
        drop(unstored);
        // The last handle of a session ends what belongs to it.
        drop(forgotten);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(RecordKey, String), Unstored>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
