//! Decides how long a session is waited for whose record a fail-over may have lost.
//!
//! A server that has taken over lacks what was written last. The processes that know of it write it back once they hear the events again.
//! A process that does not know the session may get a request for it before that, and 404 would make the client start over.

use std::time::Duration;

use crate::session::cache::freshness::Freshness;
use crate::session::id::SessionId;
use crate::session::store::{LOST_WITHIN, StoreError};
use crate::session::sweeper::AFTER_OUTAGE;

/// The pause before the store is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// One request for a session whose record has vanished.
///
/// The session has ended when it is so old that it may have expired, or that those who knew it have had their time. It has also ended
/// when this process has heard the events for a while, because a fail-over interrupts them: but not at the first look, because the
/// commands may reach another server a moment before that is noticed.
#[derive(Debug)]
pub(in crate::session) struct FailoverWait {
    /// When the session was created, by the store's clock.
    created: u32,
    /// From which age on it has ended.
    lost_within: Duration,
    has_vanished: bool,
}

impl FailoverWait {
    /// Nothing has vanished yet. `ttl` is how long sessions live without use.
    pub(in crate::session) fn new(id: &SessionId, ttl: Duration) -> Self {
        Self {
            created: id.created,
            lost_within: LOST_WITHIN.min(ttl),
            has_vanished: false,
        }
    }

    /// The pause before the store is asked again that had no record at `now`; `None` when the session has ended.
    pub(in crate::session) fn wait(&mut self, now: u32, proof: &Freshness) -> Option<Duration> {
        let age = Duration::from_secs(u64::from(now.saturating_sub(self.created)));
        let is_again = std::mem::replace(&mut self.has_vanished, true);
        let is_over = age >= self.lost_within || (is_again && proof.has_heard_for(AFTER_OUTAGE));
        (!is_over).then_some(ASK_AGAIN)
    }

    /// Why the session is not found, and may be later.
    pub(in crate::session) fn into_error(self) -> StoreError {
        StoreError::new(if self.has_vanished {
            "a fail-over may have lost the session, and nobody has written it back yet"
        } else {
            "its data was lost again and again"
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::mcp::revision::Revision;
    use crate::session::client_capabilities::ClientCapabilities;
    use crate::session::record::{PrincipalTag, RecordKey};
    use crate::session::store::Incarnation;

    const CREATED: u32 = 1_800_000_000;
    const TTL: Duration = Duration::from_secs(30 * 60);

    fn vanished(ttl: Duration) -> FailoverWait {
        let id = SessionId {
            key: RecordKey([1; 16]),
            incarnation: Incarnation([2; 8]),
            created: CREATED,
            end: CREATED + 86_400,
            principal_tag: PrincipalTag([3; 16]),
            revision: Revision::V2025_06_18,
            capabilities: ClientCapabilities::default(),
        };
        FailoverWait::new(&id, ttl)
    }

    #[tokio::test(start_paused = true)]
    async fn young_session_is_waited_for_behind_an_interruption() {
        let proof = Freshness::new(Duration::from_secs(2));
        let mut young = vanished(TTL);
        // The events are not heard yet, and then only for a moment.
        assert_eq!(young.wait(CREATED + 31, &proof), Some(ASK_AGAIN));
        proof.proved(Instant::now());
        assert_eq!(young.wait(CREATED + 31, &proof), Some(ASK_AGAIN));
        tokio::time::advance(AFTER_OUTAGE).await;
        assert_eq!(young.wait(CREATED + 36, &proof), None);
        // A clock that has been put back makes nothing old.
        assert_eq!(vanished(TTL).wait(CREATED - 5, &proof), Some(ASK_AGAIN));
    }

    #[tokio::test(start_paused = true)]
    async fn first_look_is_not_believed_while_events_are_heard() {
        let proof = Freshness::new(Duration::from_secs(2));
        proof.proved(Instant::now());
        tokio::time::advance(AFTER_OUTAGE).await;
        let mut young = vanished(TTL);
        assert_eq!(young.wait(CREATED, &proof), Some(ASK_AGAIN));
        assert_eq!(young.wait(CREATED, &proof), None);
    }

    #[test]
    fn old_session_has_ended() {
        let proof = Freshness::new(Duration::from_secs(2));
        let lost_within = u32::try_from(LOST_WITHIN.as_secs()).unwrap();
        assert_eq!(vanished(TTL).wait(CREATED + lost_within, &proof), None);
        assert_eq!(vanished(Duration::from_secs(2)).wait(CREATED + 2, &proof), None);
        assert!(
            vanished(Duration::from_secs(2))
                .wait(CREATED + 1, &proof)
                .is_some()
        );
    }
}
