//! Freshness lease of the cache: decides whether cached records are current without a read of the store.
//!
//! Every replica subscribes to the store's events ([`crate::session::store::StoreEvent`]). Invariant: a record that
//! was read in the current epoch is current up to the moment at which the last answered PING was sent, because all
//! events from before that PING have arrived. The lease lasts `maxStaleness` from that moment.
//!
//! States of the lease:
//! - *not proven*: at the start, and after an interruption of the subscription. An event may have been missed.
//! - *current*: a PING was answered and at most `maxStaleness` has passed since it was sent.
//! - *expired*: more time has passed. The next answer renews the lease; no event was missed.
//!
//! The first PING answered after an interruption starts a new *epoch*. Records read in an earlier epoch are stale.
//! All times are of this process's monotonic clock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::session::store::Incarnation;

/// Tracks whether this process's cached session records are still current.
#[derive(Debug)]
pub(in crate::session) struct Freshness {
    max_staleness: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// No other process writes to the store, so cached records are always current.
    set_sole_writer: bool,
    epoch: u64,
    /// When the last answered PING was sent; `None` while the subscription is interrupted.
    renew: Option<Instant>,
    /// Last known current moment before the interruption that lasts.
    interrupt: Option<Instant>,
    /// When the subscription was last established or restored.
    heard_since: Option<Instant>,
    /// When the subscription was last restored; `None` if it was never interrupted.
    caught_up: Option<Instant>,
    /// Current incarnation of the store's data, and when this process learned of it.
    incarnation: Option<(Incarnation, Instant)>,
    /// Incarnation to which events belong: the one known when the last answered PING was sent. Events of a dead store
    /// may arrive after its successor's incarnation is known.
    told_in: Option<Incarnation>,
}

/// From when on a result of the store counts.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct ReadStamp {
    /// When the read began.
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
    /// Starts in the state *not proven*. `max_staleness` is the duration of the lease.
    pub(in crate::session) fn new(max_staleness: Duration) -> Self {
        let state = State {
            set_sole_writer: false,
            epoch: 1,
            renew: None,
            interrupt: None,
            heard_since: None,
            caught_up: None,
            incarnation: None,
            told_in: None,
        };
        Self {
            max_staleness,
            state: Mutex::new(state),
        }
    }

    /// Declares this process the only writer: cached records are always current.
    pub(in crate::session) fn alone(&self) {
        self.lock().set_sole_writer = true;
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
            at: state.renew.unwrap_or_else(Instant::now),
            after: state.renew,
            epoch: state.epoch,
            incarnation: state.told_in,
        }
    }

    /// Whether a record read in `epoch` is current.
    pub(in crate::session) fn is_fresh(&self, epoch: u64) -> bool {
        let state = self.lock();
        let fresh = |proved: Instant| epoch == state.epoch && proved.elapsed() <= self.max_staleness;
        state.set_sole_writer || state.renew.is_some_and(fresh)
    }

    /// Whether the lease is current.
    pub(in crate::session) fn is_current(&self) -> bool {
        let epoch = self.lock().epoch;
        self.is_fresh(epoch)
    }

    /// Whether the subscription is up, and its last interruption, if any, ended at least `long` ago.
    pub(in crate::session) fn is_heard_for(&self, long: Duration) -> bool {
        let state = self.lock();
        let caught_up = state
            .caught_up
            .is_none_or(|caught_up| caught_up.elapsed() >= long);
        state.set_sole_writer || (state.renew.is_some() && caught_up)
    }

    /// Whether the subscription has been up in this process for at least `long`.
    pub(in crate::session) fn has_heard_for(&self, long: Duration) -> bool {
        let state = self.lock();
        let heard = state.heard_since.filter(|_| state.renew.is_some());
        state.set_sole_writer || heard.is_some_and(|since| since.elapsed() >= long)
    }

    /// Renews the lease: a PING sent at `at` was answered. Returns `Some` for the first one after an interruption.
    pub(in crate::session) fn proved(&self, at: Instant) -> Option<CaughtUp> {
        let mut state = self.lock();
        if let Some((incarnation, learned)) = state.incarnation
            && learned <= at
        {
            state.told_in = Some(incarnation);
        }
        if state.renew.replace(at).is_some() {
            return None;
        }
        state.epoch += 1;
        state.heard_since = Some(Instant::now());
        let since = state.interrupt.take();
        if since.is_some() {
            state.caught_up = Some(Instant::now());
        }
        Some(CaughtUp { since })
    }

    /// Records that the subscription was interrupted.
    pub(in crate::session) fn interrupted(&self) {
        let mut state = self.lock();
        // Up to the last answered PING no event was missed.
        if let Some(proved) = state.renew.take() {
            state.interrupt = Some(proved);
        }
    }

    /// Records the incarnation of the store's data. Returns the previous one if it was different.
    pub(in crate::session) fn learn(&self, incarnation: Incarnation) -> Option<Incarnation> {
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
    async fn a_proof_counts_from_when_it_was_asked_for_and_no_longer_than_the_staleness() {
        let proof = Freshness::new(STALE);
        let before = proof.stamp_now();
        assert!(!proof.is_fresh(before.epoch), "nothing is proved yet");
        let asked = Instant::now();
        tokio::time::advance(STALE / 2).await;
        assert_eq!(proof.proved(asked), Some(CaughtUp { since: None }));
        assert!(!proof.is_fresh(before.epoch), "it was read before the proof");
        let epoch = proof.stamp_now().epoch;
        assert!(proof.is_fresh(epoch));
        tokio::time::advance(STALE / 2).await;
        assert!(proof.is_fresh(epoch));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!proof.is_fresh(epoch) && !proof.is_current());
        // A late answer renews the lease: no event was missed.
        assert_eq!(proof.proved(Instant::now()), None);
        assert!(proof.is_fresh(epoch));
    }

    #[tokio::test(start_paused = true)]
    async fn behind_an_interruption_what_was_read_before_is_doubted() {
        let proof = Freshness::new(STALE);
        let first = Instant::now();
        proof.proved(first);
        let epoch = proof.stamp_now().epoch;
        tokio::time::advance(Duration::from_secs(1)).await;
        proof.interrupted();
        assert!(!proof.is_fresh(epoch));
        let meanwhile = proof.stamp_now().epoch;
        proof.interrupted();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            proof.proved(Instant::now()),
            Some(CaughtUp { since: Some(first) })
        );
        assert!(!proof.is_fresh(epoch) && !proof.is_fresh(meanwhile));
        assert!(proof.is_fresh(proof.stamp_now().epoch));
    }

    #[tokio::test(start_paused = true)]
    async fn without_others_everything_holds_and_without_staleness_nothing_does() {
        let proof = Freshness::new(STALE);
        proof.alone();
        assert!(proof.is_fresh(0));
        let never = Freshness::new(Duration::ZERO);
        never.proved(Instant::now());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!never.is_fresh(never.stamp_now().epoch));
    }

    #[tokio::test(start_paused = true)]
    async fn events_count_for_a_life_behind_a_proof_that_was_asked_for_in_it() {
        let (one, two) = (Incarnation([1; 8]), Incarnation([2; 8]));
        let proof = Freshness::new(STALE);
        assert_eq!(proof.stamp_of_event().incarnation, None);
        proof.learn(one);
        proof.proved(Instant::now());
        assert_eq!(proof.stamp_of_event().incarnation, Some(one));
        let asked_in_the_first = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        // The store died. Its successor answers before the last events of the dead store arrive.
        proof.learn(two);
        assert_eq!(proof.stamp_now().incarnation, Some(two));
        assert_eq!(proof.stamp_of_event().incarnation, Some(one));
        proof.proved(asked_in_the_first);
        assert_eq!(proof.stamp_of_event().incarnation, Some(one));
        proof.interrupted();
        assert_eq!(proof.stamp_of_event().incarnation, Some(one));
        proof.proved(Instant::now());
        assert_eq!(proof.stamp_of_event().incarnation, Some(two));
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_heard_for_as_long_as_nothing_interrupted_them() {
        let (proof, long) = (Freshness::new(STALE), Duration::from_secs(5));
        assert!(!proof.is_heard_for(Duration::ZERO), "nothing is proved yet");
        proof.proved(Instant::now());
        assert!(proof.is_heard_for(long), "there was no interruption");
        proof.interrupted();
        assert!(!proof.is_heard_for(Duration::ZERO));
        proof.proved(Instant::now());
        assert!(!proof.is_heard_for(long));
        tokio::time::advance(long).await;
        assert!(proof.is_heard_for(long));
    }

    #[tokio::test(start_paused = true)]
    async fn process_that_has_just_started_has_heard_nothing_yet() {
        let (proof, long) = (Freshness::new(STALE), Duration::from_secs(5));
        assert!(!proof.has_heard_for(Duration::ZERO));
        proof.proved(Instant::now());
        assert!(proof.has_heard_for(Duration::ZERO) && !proof.has_heard_for(long));
        tokio::time::advance(long).await;
        assert!(proof.has_heard_for(long));
        proof.interrupted();
        assert!(!proof.has_heard_for(Duration::ZERO));
        proof.proved(Instant::now());
        assert!(!proof.has_heard_for(long));
    }

    #[test]
    fn another_life_of_the_data_is_noticed_once() {
        let proof = Freshness::new(STALE);
        let (one, two) = (Incarnation([1; 8]), Incarnation([2; 8]));
        assert_eq!(proof.learn(one), None);
        assert_eq!(proof.learn(one), None);
        assert_eq!(proof.learn(two), Some(one));
        assert_eq!(proof.learn(two), None);
    }
}
