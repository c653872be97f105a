//! Failover wait: how long a request waits for a record that a failover may have lost.
//!
//! A promoted server lacks the last writes. Replicas that have them cached write them back once their subscription is
//! restored. A request may reach another replica earlier; a 404 would then make the client start over.
//!
//! States of one request: *not seen missing*, then *waiting* (the record is missing but may come back), then *ended*.
//! The rule that ends the wait is [`FailoverWait::next_pause`].

use std::time::Duration;

use crate::session::cache::freshness::Freshness;
use crate::session::id::SessionId;
use crate::session::recovery::outage::AFTER_OUTAGE;
use crate::session::store::{MAX_RESTORE_DELAY, StoreError};

/// Pause before the record is read again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Wait of one request for a missing record.
///
/// The session has ended if it is old enough to have expired, or old enough that other replicas had the time to
/// restore it. It has also ended if this process's subscription has been up for a while, because a failover
/// interrupts it. The first miss is exempt from that: commands may reach the promoted server before the interruption
/// is noticed.
#[derive(Debug)]
pub(in crate::session) struct FailoverWait {
    /// When the session was created, by the store's clock.
    created: u32,
    /// Age from which on a missing record means that the session has ended.
    max_age: Duration,
    was_missing: bool,
}

impl FailoverWait {
    /// Starts in the state *not seen missing*. `ttl` is the idle lifetime.
    pub(in crate::session) fn new(id: &SessionId, ttl: Duration) -> Self {
        Self {
            created: id.created,
            max_age: MAX_RESTORE_DELAY.min(ttl),
            was_missing: false,
        }
    }

    /// Called when the store had no record at `now`. Returns the pause before the next read, or `None` if the session
    /// has ended.
    pub(in crate::session) fn next_pause(&mut self, now: u32, freshness: &Freshness) -> Option<Duration> {
        let age = Duration::from_secs(u64::from(now.saturating_sub(self.created)));
        let is_again = std::mem::replace(&mut self.was_missing, true);
        let is_over = age >= self.max_age || (is_again && freshness.is_subscribed_for(AFTER_OUTAGE));
        (!is_over).then_some(RETRY_PAUSE)
    }

    /// Error for a request that waited in vain. The client may try again.
    pub(in crate::session) fn into_error(self) -> StoreError {
        StoreError::unavailable(if self.was_missing {
            "a failover may have lost the session, and no replica has restored it yet; try again"
        } else {
            "the store lost its data repeatedly; try again"
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::mcp::revision::Revision;
    use crate::session::client_capabilities::ClientCapabilities;
    use crate::session::record::{Incarnation, PrincipalTag, RecordKey};

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
    async fn young_session_is_waited_for_after_an_interruption() {
        let freshness = Freshness::new(Duration::from_secs(2));
        let mut young = vanished(TTL);
        // The subscription is down, then up for a moment.
        assert_eq!(young.next_pause(CREATED + 31, &freshness), Some(RETRY_PAUSE));
        freshness.renew(Instant::now());
        assert_eq!(young.next_pause(CREATED + 31, &freshness), Some(RETRY_PAUSE));
        tokio::time::advance(AFTER_OUTAGE).await;
        assert_eq!(young.next_pause(CREATED + 36, &freshness), None);
        // A clock that was set back makes no session old.
        assert_eq!(
            vanished(TTL).next_pause(CREATED - 5, &freshness),
            Some(RETRY_PAUSE)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn first_miss_does_not_end_the_session() {
        // The first miss does not end a young session even while the subscription is up; the second does.
        let freshness = Freshness::new(Duration::from_secs(2));
        freshness.renew(Instant::now());
        tokio::time::advance(AFTER_OUTAGE).await;
        let mut young = vanished(TTL);
        assert_eq!(young.next_pause(CREATED, &freshness), Some(RETRY_PAUSE));
        assert_eq!(young.next_pause(CREATED, &freshness), None);
    }

    #[test]
    fn old_session_has_ended() {
        let freshness = Freshness::new(Duration::from_secs(2));
        let max_age = u32::try_from(MAX_RESTORE_DELAY.as_secs()).unwrap();
        assert_eq!(vanished(TTL).next_pause(CREATED + max_age, &freshness), None);
        assert_eq!(
            vanished(Duration::from_secs(2)).next_pause(CREATED + 2, &freshness),
            None
        );
        assert!(
            vanished(Duration::from_secs(2))
                .next_pause(CREATED + 1, &freshness)
                .is_some()
        );
    }
}
