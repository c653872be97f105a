//! Tombstones: the markers of terminated sessions that this process knows.
//!
//! A tombstone refuses records that a slow read brings after the termination ([`super::SessionCache::insert`]), answers
//! requests of the session without a read of the store, and is written again after the store has lost its data
//! ([`crate::session::recovery::lost_data`]). The store keeps its own.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::session::record::{RecordKey, SessionLife};

/// The latest tombstones.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    by_key: HashMap<RecordKey, Tombstone>,
    /// Keys of the tombstones, oldest first.
    order: VecDeque<RecordKey>,
}

#[derive(Clone, Copy, Debug)]
struct Tombstone {
    life: SessionLife,
    /// Time at which this process learned of the termination.
    at: Instant,
}

impl Tombstones {
    /// Whether the session of `key` is known to be terminated.
    pub(super) fn contains(&self, key: &RecordKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// Keeps a tombstone for the session of `key`. Only the latest `limit` are kept.
    pub(super) fn add(&mut self, key: RecordKey, life: SessionLife, limit: usize) {
        let ended = Tombstone {
            life,
            at: Instant::now(),
        };
        if self.by_key.insert(key, ended).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > limit {
            if let Some(oldest) = self.order.pop_front() {
                self.by_key.remove(&oldest);
            }
        }
    }

    /// The sessions terminated within the last `ago`, or all of them without `ago`.
    pub(super) fn since(&self, ago: Option<Duration>) -> Vec<(RecordKey, SessionLife)> {
        let recent = |ended: &Tombstone| ago.is_none_or(|ago| ended.at.elapsed() <= ago);
        let ended = self.by_key.iter().filter(|(_, ended)| recent(ended));
        ended.map(|(key, ended)| (*key, ended.life)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::cache::cache_entry::tests::FIRST;

    const LIFE: SessionLife = SessionLife {
        incarnation: FIRST,
        end: 2_000_000_000,
    };

    fn key(number: u8) -> RecordKey {
        RecordKey([number; 16])
    }

    #[tokio::test(start_paused = true)]
    async fn latest_tombstones_are_kept_up_to_the_limit() {
        let mut tombstones = Tombstones::default();
        tombstones.add(key(1), LIFE, 2);
        tombstones.add(key(2), LIFE, 2);
        tombstones.add(key(2), LIFE, 2);
        assert_eq!(tombstones.since(None).len(), 2);
        tokio::time::advance(Duration::from_secs(2)).await;
        tombstones.add(key(3), LIFE, 2);
        assert!(!tombstones.contains(&key(1)));
        assert!(tombstones.contains(&key(2)) && tombstones.contains(&key(3)));
        assert_eq!(tombstones.since(Some(Duration::from_secs(1))), [(key(3), LIFE)]);
    }
}
