//! Sessions whose idle deadline is to be moved in the store.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::session::record::RecordKey;

/// Queue of deadlines to move. A session is here at most once ([`super::cache_entry::CacheEntry::record_use`]), so the
/// cache bounds the size.
#[derive(Debug, Default)]
pub(in crate::session) struct PendingTouches {
    due: Mutex<Vec<RecordKey>>,
    notify: Notify,
}

impl PendingTouches {
    /// Queues `key` and wakes the task.
    pub(in crate::session) fn add(&self, key: RecordKey) {
        self.due.lock().unwrap_or_else(PoisonError::into_inner).push(key);
        self.notify.notify_one();
    }

    /// Completes when sessions have been queued.
    pub(in crate::session) async fn queued(&self) {
        self.notify.notified().await;
    }

    /// Wakes the task without queueing a session.
    pub(in crate::session) fn wake(&self) {
        self.notify.notify_one();
    }

    pub(in crate::session) fn take(&self) -> Vec<RecordKey> {
        std::mem::take(&mut *self.due.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Queues `keys` again without waking the task.
    pub(in crate::session) fn put_back(&self, keys: &[RecordKey]) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.extend_from_slice(keys);
    }
}
