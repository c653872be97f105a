//! Freshness lease of the cache: decides whether cached records are current without a read of the store.
//!
//! Every replica subscribes to the store's events ([`crate::session::store::StoreEvent`]). Invariant: a record that
//! was read in the current epoch is current up to the moment at which the last answered PING was sent, because all
//! events from before that PING have arrived. The lease lasts `maxStaleness` from that moment.
//!
//! States of the lease, and what they make of an entry that was read in the current epoch:
//! - *current*: a PING was answered and at most `maxStaleness` has passed since it was sent. The entry is fresh.
//! - *expired*: more time has passed. The entry is unproven. The next answer renews the lease; no event was missed.
//! - *interrupted*: at the start, and after an interruption of the subscription. An event may have been missed, so the
//!   entry is stale.
//!
//! The first PING answered after an interruption starts a new *epoch*. Records read in an earlier epoch are stale.
//! All times are of this process's monotonic clock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::session::record::Incarnation;

/// Tracks whether this process's cached session records are still current.
#[derive(Debug)]
pub(in crate::session) struct Freshness {
    max_staleness: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// No other process writes to the store, so cached records are always current.
    is_sole_writer: bool,
    epoch: u64,
    /// When the last answered PING was sent; `None` while the subscription is interrupted.
    renewed_at: Option<Instant>,
    /// Last known current moment before the interruption that lasts.
    interrupted_at: Option<Instant>,
    /// When the subscription was last established or restored.
    subscribed_since: Option<Instant>,
    /// When the subscription was last restored; `None` if it was never interrupted.
    caught_up: Option<Instant>,
    /// Current incarnation of the store's data, and when this process learned of it.
    incarnation: Option<(Incarnation, Instant)>,
    /// Incarnation to which events belong: the one known when the last answered PING was sent. Events of a dead store
    /// may arrive after its successor's incarnation is known.
    event_incarnation: Option<Incarnation>,
}

/// From when on a result of the store counts.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct ReadStamp {
    /// When the read of the store began.
    pub(in crate::session) at: Instant,
    /// The store's state was read at or after this moment; `None` if no such moment is known.
    pub(in crate::session) after: Option<Instant>,
    pub(in crate::session) epoch: u64,
    pub(in crate::session) incarnation: Option<Incarnation>,
}

/// Result of the first PING that is answered after an interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) struct CaughtUp {
    /// Start of the interval in which events may have been missed; `None` at process start.
    pub(in crate::session) since: Option<Instant>,
}

impl Freshness {
    /// Starts in the state *interrupted*. `max_staleness` is the duration of the lease.
    pub(in crate::session) fn new(max_staleness: Duration) -> Self {
        let state = State {
            is_sole_writer: false,
            epoch: 1,
            renewed_at: None,
            interrupted_at: None,
            subscribed_since: None,
            caught_up: None,
            incarnation: None,
            event_incarnation: None,
        };
        Self {
            max_staleness,
            state: Mutex::new(state),
        }
    }

    /// Declares this process the only writer: cached records are always current.
    pub(in crate::session) fn set_sole_writer(&self) {
        self.lock().is_sole_writer = true;
    }

    /// Interval at which the lease is renewed.
    pub(in crate::session) fn renewal_interval(&self) -> Duration {
        self.max_staleness / 2
    }

    /// Stamp of a read that begins now.
    pub(in crate::session) fn stamp_now(&self) -> ReadStamp {
        let (state, now) = (self.lock(), Instant::now());
        ReadStamp {
            at: now,
            after: Some(now),
            epoch: state.epoch,
            incarnation: state.incarnation.map(|(incarnation, _)| incarnation),
        }
    }

    /// Stamp of a record received in an event. It is at least as new as the last answered PING.
    pub(in crate::session) fn stamp_of_event(&self) -> ReadStamp {
        let state = self.lock();
        ReadStamp {
            at: state.renewed_at.unwrap_or_else(Instant::now),
            after: state.renewed_at,
            epoch: state.epoch,
            incarnation: state.event_incarnation,
        }
    }

    /// Whether a record read in `epoch` is current.
    pub(in crate::session) fn is_fresh(&self, epoch: u64) -> bool {
        let state = self.lock();
        let fresh = |proved: Instant| epoch == state.epoch && proved.elapsed() <= self.max_staleness;
        state.is_sole_writer || state.renewed_at.is_some_and(fresh)
    }

    /// Whether the lease is current.
    pub(in crate::session) fn is_current(&self) -> bool {
        let epoch = self.lock().epoch;
        self.is_fresh(epoch)
    }

    /// Whether the subscription is up, and its last interruption, if any, ended at least `long` ago.
    pub(in crate::session) fn is_uninterrupted_for(&self, long: Duration) -> bool {
        let state = self.lock();
        let caught_up = state
            .caught_up
            .is_none_or(|caught_up| caught_up.elapsed() >= long);
        state.is_sole_writer || (state.renewed_at.is_some() && caught_up)
    }

    /// Whether the subscription has been up in this process for at least `long`.
    pub(in crate::session) fn is_subscribed_for(&self, long: Duration) -> bool {
        let state = self.lock();
        let since = state.subscribed_since.filter(|_| state.renewed_at.is_some());
        state.is_sole_writer || since.is_some_and(|since| since.elapsed() >= long)
    }

    /// Renews the lease: a PING sent at `at` was answered. Returns `Some` for the first one after an interruption.
    pub(in crate::session) fn renew(&self, at: Instant) -> Option<CaughtUp> {
        let mut state = self.lock();
        if let Some((incarnation, learned)) = state.incarnation
            && learned <= at
        {
            state.event_incarnation = Some(incarnation);
        }
        if state.renewed_at.replace(at).is_some() {
            return None;
        }
        state.epoch += 1;
        state.subscribed_since = Some(Instant::now());
        let since = state.interrupted_at.take();
        if since.is_some() {
            state.caught_up = Some(Instant::now());
        }
        Some(CaughtUp { since })
    }

    /// Records that the subscription was interrupted.
    pub(in crate::session) fn interrupted(&self) {
        let mut state = self.lock();
        // Up to the last answered PING no event was missed.
        if let Some(proved) = state.renewed_at.take() {
            state.interrupted_at = Some(proved);
        }
    }

    /// Records the incarnation of the store's data. Returns the previous one if it was different.
    pub(in crate::session) fn record_incarnation(&self, incarnation: Incarnation) -> Option<Incarnation> {
        let mut state = self.lock();
        let before = state.incarnation.map(|(before, _)| before);
        if before != Some(incarnation) {
            state.incarnation = Some((incarnation, Instant::now()));
        }
        before.filter(|before| *before != incarnation)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn lease_lasts_max_staleness_from_sending_the_ping() {
        // The lease begins when the PING was sent and lasts `max_staleness`; a late answer renews it in the same epoch.
        let freshness = Freshness::new(STALE);
        let before = freshness.stamp_now();
        assert!(!freshness.is_fresh(before.epoch), "no PING is answered yet");
        let asked = Instant::now();
        tokio::time::advance(STALE / 2).await;
        assert_eq!(freshness.renew(asked), Some(CaughtUp { since: None }));
        assert!(
            !freshness.is_fresh(before.epoch),
            "it was read before the lease began"
        );
        let epoch = freshness.stamp_now().epoch;
        assert!(freshness.is_fresh(epoch));
        tokio::time::advance(STALE / 2).await;
        assert!(freshness.is_fresh(epoch));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!freshness.is_fresh(epoch) && !freshness.is_current());
        // A late answer renews the lease: no event was missed.
        assert_eq!(freshness.renew(Instant::now()), None);
        assert!(freshness.is_fresh(epoch));
    }

    #[tokio::test(start_paused = true)]
    async fn interruption_makes_earlier_reads_stale() {
        // Records read before or during an interruption stay stale after the subscription is restored.
        let freshness = Freshness::new(STALE);
        let first = Instant::now();
        freshness.renew(first);
        let epoch = freshness.stamp_now().epoch;
        tokio::time::advance(Duration::from_secs(1)).await;
        freshness.interrupted();
        assert!(!freshness.is_fresh(epoch));
        let meanwhile = freshness.stamp_now().epoch;
        freshness.interrupted();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            freshness.renew(Instant::now()),
            Some(CaughtUp { since: Some(first) })
        );
        assert!(!freshness.is_fresh(epoch) && !freshness.is_fresh(meanwhile));
        assert!(freshness.is_fresh(freshness.stamp_now().epoch));
    }

    #[tokio::test(start_paused = true)]
    async fn sole_writer_is_always_fresh_and_zero_staleness_never() {
        // A sole writer's records are always current. With `maxStaleness` 0 no record is.
        let freshness = Freshness::new(STALE);
        freshness.set_sole_writer();
        assert!(freshness.is_fresh(0));
        let never = Freshness::new(Duration::ZERO);
        never.renew(Instant::now());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!never.is_fresh(never.stamp_now().epoch));
    }

    #[tokio::test(start_paused = true)]
    async fn events_belong_to_the_incarnation_of_the_last_ping() {
        // Events belong to the incarnation that was known when the last answered PING was sent.
        let (one, two) = (Incarnation([1; 8]), Incarnation([2; 8]));
        let freshness = Freshness::new(STALE);
        assert_eq!(freshness.stamp_of_event().incarnation, None);
        freshness.record_incarnation(one);
        freshness.renew(Instant::now());
        assert_eq!(freshness.stamp_of_event().incarnation, Some(one));
        let asked_in_the_first = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        // The store died. Its successor answers before the last events of the dead store arrive.
        freshness.record_incarnation(two);
        assert_eq!(freshness.stamp_now().incarnation, Some(two));
        assert_eq!(freshness.stamp_of_event().incarnation, Some(one));
        freshness.renew(asked_in_the_first);
        assert_eq!(freshness.stamp_of_event().incarnation, Some(one));
        freshness.interrupted();
        assert_eq!(freshness.stamp_of_event().incarnation, Some(one));
        freshness.renew(Instant::now());
        assert_eq!(freshness.stamp_of_event().incarnation, Some(two));
    }

    #[tokio::test(start_paused = true)]
    async fn subscription_counts_as_up_after_its_interruption_ended() {
        // Without an interruption the subscription counts as up at once, and otherwise after the given time.
        let (freshness, long) = (Freshness::new(STALE), Duration::from_secs(5));
        assert!(
            !freshness.is_uninterrupted_for(Duration::ZERO),
            "no PING is answered yet"
        );
        freshness.renew(Instant::now());
        assert!(freshness.is_uninterrupted_for(long), "there was no interruption");
        freshness.interrupted();
        assert!(!freshness.is_uninterrupted_for(Duration::ZERO));
        freshness.renew(Instant::now());
        assert!(!freshness.is_uninterrupted_for(long));
        tokio::time::advance(long).await;
        assert!(freshness.is_uninterrupted_for(long));
    }

    #[tokio::test(start_paused = true)]
    async fn new_process_has_no_subscription_time() {
        // The time of the subscription counts from its first answered PING.
        let (freshness, long) = (Freshness::new(STALE), Duration::from_secs(5));
        assert!(!freshness.is_subscribed_for(Duration::ZERO));
        freshness.renew(Instant::now());
        assert!(freshness.is_subscribed_for(Duration::ZERO) && !freshness.is_subscribed_for(long));
        tokio::time::advance(long).await;
        assert!(freshness.is_subscribed_for(long));
        freshness.interrupted();
        assert!(!freshness.is_subscribed_for(Duration::ZERO));
        freshness.renew(Instant::now());
        assert!(!freshness.is_subscribed_for(long));
    }

    #[test]
    fn new_incarnation_is_reported_once() {
        // A new incarnation is reported by the first call only.
        let freshness = Freshness::new(STALE);
        let (one, two) = (Incarnation([1; 8]), Incarnation([2; 8]));
        assert_eq!(freshness.record_incarnation(one), None);
        assert_eq!(freshness.record_incarnation(one), None);
        assert_eq!(freshness.record_incarnation(two), Some(one));
        assert_eq!(freshness.record_incarnation(two), None);
    }
}
