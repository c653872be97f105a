//! What this process holds of upstream sessions that no record names, or no longer names.

use super::deletions::UpstreamDeletions;
use super::provisional_sessions::ProvisionalSessions;
use super::sse_connections::SseConnections;
use super::unstored_cookies::UnstoredCookies;
use crate::runtime::tasks::Tasks;
use crate::session::recovery::pending_terminations::PendingTerminations;

/// Upstream sessions outside of records. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(in crate::session) struct LocalUpstreams {
    /// Opened during an outage, not bound yet.
    pub(in crate::session) provisional: ProvisionalSessions,
    /// HTTP+SSE connections of this process.
    pub(in crate::session) sse_connections: SseConnections,
    /// Bound ones whose latest cookies the store does not have.
    pub(in crate::session) unstored_cookies: UnstoredCookies,
    /// Those of client sessions that may have been terminated.
    pub(in crate::session) pending_terminations: PendingTerminations,
    /// The queue of sessions to delete at their backends.
    pub(in crate::session) deletions: UpstreamDeletions,
}

impl LocalUpstreams {
    pub(in crate::session) fn new(tasks: Tasks) -> Self {
        Self {
            provisional: ProvisionalSessions::default(),
            sse_connections: SseConnections::default(),
            unstored_cookies: UnstoredCookies::default(),
            pending_terminations: PendingTerminations::default(),
            deletions: UpstreamDeletions::new(tasks),
        }
    }
}
