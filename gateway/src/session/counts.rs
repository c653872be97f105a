//! The sessions that this process knows, counted by what they do: for whoever watches it.

use std::collections::HashSet;

use super::Sessions;

/// How many sessions are in which state. One session may call and listen, and be provisional, at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounts {
    /// A request of theirs runs here.
    pub calling: usize,
    /// They hold their own stream here.
    pub listening: usize,
    /// They are remembered here, live as far as is known, and do neither.
    pub idle: usize,
    /// They use an upstream session that no record names yet.
    pub provisional: usize,
}

impl Sessions {
    /// Counts them. It looks at each that is remembered: for a scrape, and not for a request.
    #[must_use]
    pub fn counts(&self) -> SessionCounts {
        let inner = &*self.inner;
        let calling: HashSet<_> = inner.in_flight.keys().into_iter().collect();
        let listening: HashSet<_> = inner.streams.keys().into_iter().collect();
        let lifetime = inner.settings.lifetimes.idle;
        let idle = inner.cache.entries().into_iter().filter(|(key, entry)| {
            !calling.contains(key) && !listening.contains(key) && entry.lives_on(lifetime)
        });
        SessionCounts {
            idle: idle.count(),
            calling: calling.len(),
            listening: listening.len(),
            provisional: inner.provisional.sessions(),
        }
    }
}
