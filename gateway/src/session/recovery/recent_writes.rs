//! Sessions to which this process wrote recently. After a failover they are written again, see
//! [`crate::session::recovery::lost_data`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::session::record::RecordKey;
use crate::session::store::TOMBSTONE_LIFETIME;

/// Age of the oldest writes that a failover may lose.
pub(in crate::session) const MAX_LOST_WRITE_AGE: Duration = Duration::from_secs(60);
/// Maximum number of sessions. The ones with the oldest writes are dropped first.
const MAX_SESSIONS: usize = 16 * 1024;

/// Time of this process's last write per session.
#[derive(Debug, Default)]
pub(in crate::session) struct RecentWrites {
    state: Mutex<State>,
}

/// Invariant: each session is in both maps exactly once.
#[derive(Debug, Default)]
struct State {
    /// Writes by sequence number, so that the first entry is the oldest.
    writes: BTreeMap<u64, (Instant, RecordKey)>,
    /// Sequence number of each session's last write.
    last: HashMap<RecordKey, u64>,
    next: u64,
}

impl State {
    fn forget_oldest(&mut self) {
        if let Some((_, (_, key))) = self.writes.pop_first() {
            self.last.remove(&key);
        }
    }

    fn is_oldest_outdated(&self, now: Instant) -> bool {
        let oldest = self.writes.first_key_value();
        oldest.is_some_and(|(_, (at, _))| *at + MAX_LOST_WRITE_AGE + TOMBSTONE_LIFETIME < now)
    }
}

impl RecentWrites {
    /// Records a write to `key`.
    pub(in crate::session) fn note(&self, key: RecordKey) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, number) = (Instant::now(), state.next);
        state.next = number.wrapping_add(1);
        if let Some(before) = state.last.insert(key, number) {
            state.writes.remove(&before);
        }
        state.writes.insert(number, (now, key));
        while state.writes.len() > MAX_SESSIONS || state.is_oldest_outdated(now) {
            state.forget_oldest();
        }
    }

    /// Sessions whose last write is at or after `since`.
    pub(in crate::session) fn since(&self, since: Instant) -> HashSet<RecordKey> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let newest_first = state.writes.values().rev();
        newest_first
            .take_while(|(at, _)| *at >= since)
            .map(|(_, key)| *key)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> RecordKey {
        RecordKey(u128::from(number).to_be_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn writes_are_kept_while_a_failover_may_lose_them() {
        let writes = RecentWrites::default();
        let began = Instant::now();
        writes.note(key(1));
        tokio::time::advance(MAX_LOST_WRITE_AGE).await;
        writes.note(key(2));
        assert_eq!(writes.since(began).len(), 2);
        assert_eq!(writes.since(Instant::now()), HashSet::from([key(2)]));
        tokio::time::advance(TOMBSTONE_LIFETIME + Duration::from_secs(1)).await;
        writes.note(key(3));
        assert_eq!(writes.since(began).len(), 2);
    }

    // A busy session takes one entry and does not displace others.
    #[tokio::test(start_paused = true)]
    async fn session_with_many_writes_takes_one_entry() {
        let writes = RecentWrites::default();
        let began = Instant::now();
        writes.note(key(1));
        for _ in 0..2 * MAX_SESSIONS {
            writes.note(key(2));
        }
        assert_eq!(writes.since(began), HashSet::from([key(1), key(2)]));
        assert_eq!(writes.state.lock().unwrap().writes.len(), 2);
        // The last write counts.
        tokio::time::advance(MAX_LOST_WRITE_AGE).await;
        writes.note(key(1));
        assert_eq!(writes.since(Instant::now()), HashSet::from([key(1)]));
    }

    #[tokio::test(start_paused = true)]
    async fn oldest_write_is_dropped_at_the_limit() {
        let writes = RecentWrites::default();
        let began = Instant::now();
        for number in 0..MAX_SESSIONS as u64 {
            writes.note(key(number));
        }
        writes.note(key(0));
        writes.note(key(MAX_SESSIONS as u64));
        let kept = writes.since(began);
        assert_eq!(kept.len(), MAX_SESSIONS);
        assert!(kept.contains(&key(0)) && !kept.contains(&key(1)));
        let state = writes.state.lock().unwrap();
        assert_eq!(state.writes.len(), state.last.len());
    }
}
