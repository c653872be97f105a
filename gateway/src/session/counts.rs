//! Counts of the sessions that this process knows, by activity, for the metrics.

use std::collections::HashSet;

use super::Sessions;

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

impl Sessions {
    /// Counts the sessions. It visits every cache entry, so only a scrape may call it, not a request.
    #[must_use]
    pub fn counts(&self) -> SessionCounts {
        let inner = &*self.inner;
        let calling: HashSet<_> = inner.in_flight.keys().into_iter().collect();
        let listening: HashSet<_> = inner.streams.keys().into_iter().collect();
        let lifetime = inner.settings.lifetimes.idle;
        let idle = inner.cache.entries().into_iter().filter(|(key, entry)| {
            !calling.contains(key) && !listening.contains(key) && entry.is_alive(lifetime)
        });
        SessionCounts {
            idle: idle.count(),
            calling: calling.len(),
            listening: listening.len(),
            provisional: inner.provisional.sessions(),
        }
    }
}
