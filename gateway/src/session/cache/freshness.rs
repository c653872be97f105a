//! Whether what this process remembers is still true.
//!
//! Every process is told what the others change ([`crate::session::store::Event`]), so that what it remembers stays true as long as nothing is
//! missed. That is *proved*, and the proof has an age: it says that everything is known which happened before a moment, and counts for
//! `maxStaleness` from that moment. Once the events were interrupted something may have been missed, and what was read before the next
//! proof is doubted: it is read once more before it is used. The numbers that tell the one from the other are *epochs*; each begins
//! with the first proof behind an interruption.
//!
//! Time is the monotonic clock of this process.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::session::store::Incarnation;

/// What this process knows of what it knows.
#[derive(Debug)]
pub(in crate::session) struct Freshness {
    max_staleness: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Nobody else changes anything.
    set_sole_writer: bool,
    epoch: u64,
    /// The moment before which everything is known; `None` while the events are interrupted.
    renew: Option<Instant>,
    /// Since when they are interrupted, if they ever were heard.
    interrupt: Option<Instant>,
    /// When the events were first proved, of those that nothing has interrupted since.
    heard_since: Option<Instant>,
    /// When the events were first proved again behind the last interruption.
    caught_up: Option<Instant>,
    /// The life of the store's data, as it was last known, and since when.
    incarnation: Option<(Incarnation, Instant)>,
    /// The life that events tell of: that of the last proof which was asked for when the life was known already. What a store says that
    /// has died meanwhile may be heard after the life of its successor's data is known.
    told_in: Option<Incarnation>,
}

/// From when something counts that the store says.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct ReadStamp {
    /// When the store was asked.
    pub(in crate::session) at: Instant,
    /// What the process knew before this moment is not newer. `None` when no such moment is known.
    pub(in crate::session) after: Option<Instant>,
    pub(in crate::session) epoch: u64,
    pub(in crate::session) incarnation: Option<Incarnation>,
}

/// The events are heard again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) struct CaughtUp {
    /// Since when something may have been missed; `None` when the process has just started.
    pub(in crate::session) since: Option<Instant>,
}

impl Freshness {
    /// Nothing is proved. What is known counts for `max_staleness`.
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

    /// Nobody else changes anything: what is remembered is true.
    pub(in crate::session) fn alone(&self) {
        self.lock().set_sole_writer = true;
    }

    /// How often a proof is wanted.
    pub(in crate::session) fn renewal_interval(&self) -> Duration {
        self.max_staleness / 2
    }

    /// What the store is asked for now counts from now.
    pub(in crate::session) fn stamp_now(&self) -> ReadStamp {
        let (state, now) = (self.lock(), Instant::now());
        ReadStamp {
            at: now,
            after: Some(now),
            epoch: state.epoch,
            incarnation: state.incarnation.map(|(incarnation, _)| incarnation),
        }
    }

    /// What is told by an event was true at the last proof at the earliest.
    pub(in crate::session) fn stamp_of_event(&self) -> ReadStamp {
        let state = self.lock();
        ReadStamp {
            at: state.renew.unwrap_or_else(Instant::now),
            after: state.renew,
            epoch: state.epoch,
            incarnation: state.told_in,
        }
    }

    /// Whether what was read in `epoch` is true now.
    pub(in crate::session) fn is_fresh(&self, epoch: u64) -> bool {
        let state = self.lock();
        let fresh = |proved: Instant| epoch == state.epoch && proved.elapsed() <= self.max_staleness;
        state.set_sole_writer || state.renew.is_some_and(fresh)
    }

    /// Whether events are proved to arrive.
    pub(in crate::session) fn is_current(&self) -> bool {
        let epoch = self.lock().epoch;
        self.is_fresh(epoch)
    }

    /// Whether the events have not been interrupted for `long`, at least.
    pub(in crate::session) fn is_heard_for(&self, long: Duration) -> bool {
        let state = self.lock();
        let caught_up = state
            .caught_up
            .is_none_or(|caught_up| caught_up.elapsed() >= long);
        state.set_sole_writer || (state.renew.is_some() && caught_up)
    }

    /// Whether this process has heard the events for `long`.
    pub(in crate::session) fn has_heard_for(&self, long: Duration) -> bool {
        let state = self.lock();
        let heard = state.heard_since.filter(|_| state.renew.is_some());
        state.set_sole_writer || heard.is_some_and(|since| since.elapsed() >= long)
    }

    /// Everything that happened before `at` is known. Says whether that is the first proof for a while.
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

    /// From now on something may happen that is never told.
    pub(in crate::session) fn interrupted(&self) {
        let mut state = self.lock();
        // What was proved last is the last moment at which nothing was missed.
        if let Some(proved) = state.renew.take() {
            state.interrupt = Some(proved);
        }
    }

    /// Takes note of the life of the store's data, and gives the one before if that was another.
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
        // A late proof is as good: nothing was missed.
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
        // The store has died. What its successor says is known before the rest of what it said itself is heard.
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
