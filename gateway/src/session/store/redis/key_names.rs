//! Names of the Redis keys of one virtual server.

use crate::config::ServerName;
use crate::session::record::RecordKey;

/// The key names. All have the same hash tag, so a cluster keeps them in one slot.
#[derive(Debug)]
pub(super) struct KeyNames {
    /// Prefix of the keys of session records.
    pub(super) record_prefix: String,
    /// Prefix of tombstones and recovery markers.
    marker_prefix: String,
    pub(super) incarnation: String,
    /// Sorted set of all records, by idle deadline.
    pub(super) sessions: String,
    /// Persisted lists, by backend name.
    pub(super) offers: String,
    /// Shared upstream sessions, and the numbers that processes have taken, by backend name.
    pub(super) shared_sessions: String,
    /// Keys that the probes write and delete: a hash and a set.
    pub(super) probe: String,
    pub(super) probe_set: String,
    /// Channel on which replicas publish events.
    pub(super) channel: String,
}

impl KeyNames {
    /// Key names of `server` in a Redis where this gateway's keys have `prefix`.
    pub(super) fn new(prefix: &str, server: &ServerName) -> Self {
        let tag = format!("{{{prefix}{server}}}");
        Self {
            record_prefix: format!("{tag}:s:"),
            marker_prefix: format!("{tag}:m:"),
            incarnation: format!("{tag}:incarnation"),
            sessions: format!("{tag}:sessions"),
            offers: format!("{tag}:catalogue"),
            shared_sessions: format!("{tag}:shared"),
            probe: format!("{tag}:probe"),
            probe_set: format!("{tag}:probes"),
            channel: format!("{tag}:events"),
        }
    }

    pub(super) fn record(&self, key: &RecordKey) -> String {
        format!("{}{key}", self.record_prefix)
    }

    pub(super) fn marker(&self, key: &RecordKey) -> String {
        format!("{}{key}", self.marker_prefix)
    }
}
