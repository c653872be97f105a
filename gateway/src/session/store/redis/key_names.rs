//! The names of the keys of one virtual server.

use crate::config::ServerName;
use crate::session::record::RecordKey;

/// The names. All begin with the same hash tag.
#[derive(Debug)]
pub(super) struct KeyNames {
    /// What the key of a record begins with.
    pub(super) record_prefix: String,
    /// What the key begins with that says what became of a session.
    marker_prefix: String,
    pub(super) incarnation: String,
    /// The set of all records, by their idle deadlines.
    pub(super) sessions: String,
    /// What backends offer, by their names.
    pub(super) offers: String,
    /// The upstream sessions that all clients share, and numbers that processes have taken, by the backends' names.
    pub(super) shared_sessions: String,
    /// What probes write, and remove again: a hash and a set.
    pub(super) probe: String,
    pub(super) probe_set: String,
    /// Where processes tell each other what they do.
    pub(super) channel: String,
}

impl KeyNames {
    /// The names of what `server` has in a Redis whose keys begin with `prefix`.
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
