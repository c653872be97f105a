//! One at a time per key: those who want the same thing at the same moment wait for the first, and then find it done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::record::RecordKey;

type Key = (RecordKey, String);

/// The turns that are taken. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    taken: Arc<Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>>,
}

/// A turn; dropping it lets the next one in.
pub(super) struct Turn {
    key: Key,
    turns: Turns,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the turn of `key` at `backend`.
    pub(super) async fn take(&self, key: RecordKey, backend: &str) -> Turn {
        let key = (key, backend.to_owned());
        let turn = {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(taken.entry(key.clone()).or_default())
        };
        let guard = turn.lock_owned().await;
        Turn {
            key,
            turns: self.clone(),
            guard: Some(guard),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.turns.taken.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.guard.take());
        // Those who wait hold a reference of their own; the map's is the last one when nobody does.
        if taken
            .get(&self.key)
            .is_some_and(|turn| Arc::strong_count(turn) == 1)
        {
            taken.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_per_key_and_nothing_is_kept_afterwards() {
        let turns = Turns::default();
        let (a, b) = (RecordKey([1; 16]), RecordKey([2; 16]));
        let first = turns.take(a, "x").await;
        let _other = turns.take(b, "x").await;
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), turns.take(a, "x"));
        assert!(waiting.await.is_err());
        drop(first);
        drop(turns.take(a, "x").await);
        assert_eq!(turns.taken.lock().unwrap().len(), 1);
    }
}
