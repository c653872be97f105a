//! Since when the store does not answer.
//!
//! It counts from the first operation without an answer to the next one that has one. The session layer asks for a sign of life while
//! it lasts, so that its end is noticed also when nobody calls.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use super::store::Unavailable;

/// The state of the store as this process sees it.
#[derive(Debug, Default)]
pub(super) struct Outage {
    down: ArcSwapOption<Down>,
    /// When the last outage ended.
    ended: ArcSwapOption<Instant>,
}

/// The store does not answer.
#[derive(Clone, Debug)]
pub(super) struct Down {
    /// Since when.
    pub(super) since: Instant,
    /// What was wrong the last time.
    pub(super) error: Unavailable,
}

impl Outage {
    /// An operation had no answer. Says whether that is news.
    pub(super) fn failed(&self, error: &Unavailable) -> bool {
        let now = Instant::now();
        let before = self.down.rcu(|down| {
            let since = down.as_ref().map_or(now, |down| down.since);
            let error = error.clone();
            Some(Arc::new(Down { since, error }))
        });
        before.is_none()
    }

    /// An operation had an answer. Says whether that is news.
    pub(super) fn answered(&self) -> bool {
        let news = self.down.load().is_some() && self.down.swap(None).is_some();
        if news {
            self.ended.store(Some(Arc::new(Instant::now())));
        }
        news
    }

    /// Whether the store has answered for `long`.
    pub(super) fn is_over_for(&self, long: Duration) -> bool {
        let ended = self.ended.load();
        self.now().is_none() && ended.as_ref().is_none_or(|ended| ended.elapsed() >= long)
    }

    /// What is wrong, if something is.
    pub(super) fn now(&self) -> Option<Arc<Down>> {
        self.down.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_lasts_from_the_first_failure_to_the_next_answer() {
        let outage = Outage::default();
        assert!(!outage.answered());
        let began = Instant::now();
        assert!(outage.failed(&Unavailable::new("one")));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(!outage.failed(&Unavailable::new("two")));
        let down = outage.now().unwrap();
        assert_eq!(down.since, began);
        assert!(down.error.to_string().contains("two"));
        assert!(outage.answered());
        assert!(outage.now().is_none());
        assert!(!outage.answered());
        assert!(outage.failed(&Unavailable::new("three")));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_over_for_as_long_as_the_store_has_answered_since() {
        let (outage, long) = (Outage::default(), Duration::from_secs(5));
        assert!(outage.is_over_for(long), "there was none");
        outage.failed(&Unavailable::new("one"));
        tokio::time::advance(long * 2).await;
        assert!(!outage.is_over_for(Duration::ZERO), "it lasts");
        outage.answered();
        assert!(!outage.is_over_for(long));
        tokio::time::advance(long).await;
        outage.answered();
        assert!(outage.is_over_for(long));
    }
}
