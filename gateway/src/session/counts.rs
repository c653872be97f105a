//! Counts of the sessions that this process knows, by activity, for the metrics.

use std::collections::HashSet;
use std::time::Duration;

use super::local_sessions::LocalSessions;
use super::upstream::local_upstreams::LocalUpstreams;

/// Number of sessions in each state. A session can be calling, listening and provisional at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounts {
    /// Sessions with a running request in this process.
    pub calling: usize,
    /// Sessions whose GET stream is open in this process.
    pub listening: usize,
    /// Cached live sessions without a running request or an open stream.
    pub idle: usize,
    /// Sessions with a provisional upstream session.
    pub provisional: usize,
}

impl SessionCounts {
    /// Counts the sessions of this process. It visits every cache entry, so only a scrape may call it, not a request.
    /// `idle` is the idle lifetime.
    pub(super) fn count(local: &LocalSessions, upstreams: &LocalUpstreams, idle: Duration) -> Self {
        let calling: HashSet<_> = local.in_flight.keys().into_iter().collect();
        let listening: HashSet<_> = local.streams.keys().into_iter().collect();
        let entries = local.cache.entries().into_iter().filter(|(key, entry)| {
            !calling.contains(key) && !listening.contains(key) && entry.is_alive(idle)
        });
        Self {
            idle: entries.count(),
            calling: calling.len(),
            listening: listening.len(),
            provisional: upstreams.provisional.sessions(),
        }
    }
}
