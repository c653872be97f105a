//! Ends what this process holds of a client session that is over.

use super::local_sessions::LocalSessions;
use super::record::{RecordKey, SessionLife};
use super::upstream::local_upstreams::LocalUpstreams;
use crate::backend::{Backend, UpstreamSession};

/// Ends sessions in this process. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(super) struct SessionTeardown {
    local: LocalSessions,
    upstreams: LocalUpstreams,
}

impl SessionTeardown {
    pub(super) fn new(local: LocalSessions, upstreams: LocalUpstreams) -> Self {
        Self { local, upstreams }
    }

    /// Marks the session as terminated, here or on another replica, and stops its streams and requests.
    pub(super) fn mark_terminated(&self, key: &RecordKey, life: SessionLife) {
        self.local.cache.terminate(key, life);
        self.stop(key);
        self.delete_upstreams_of_terminated(key);
    }

    /// Drops a session of which the store has no record, and stops its streams and requests.
    pub(super) fn drop_session(&self, key: &RecordKey) {
        self.local.cache.remove(key);
        self.stop(key);
    }

    fn stop(&self, key: &RecordKey) {
        self.upstreams.unstored_cookies.forget(key);
        self.local.streams.close(key);
        self.local.in_flight.end(key);
        self.close_connections(key);
    }

    /// Deletes the upstream sessions of `key` after its termination is confirmed.
    pub(super) fn delete_upstreams_of_terminated(&self, key: &RecordKey) {
        for (backend, upstream) in self.upstreams.pending_terminations.take(key) {
            self.delete_upstream(backend, upstream);
        }
    }

    /// Deletes the upstream sessions of `key` that are connections of this process.
    pub(super) fn close_connections(&self, key: &RecordKey) {
        for (backend, upstream) in self.upstreams.sse_connections.take(key) {
            self.delete_upstream(backend, upstream);
        }
    }

    /// Queues the deletion of an upstream session.
    pub(super) fn delete_upstream(&self, backend: Backend, session: UpstreamSession) {
        self.upstreams.deletions.delete(backend, session);
    }
}
