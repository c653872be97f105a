//! Ids of calls that were abandoned before their answers arrived: their backends may still run and answer them.
//!
//! Such an id stays reserved for a while. Otherwise a later call with the same id could get the earlier answer, or
//! the earlier call's cancellation. The list is bounded. While it is full, every id counts as reserved, which costs
//! those calls only their resumption.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::record::RecordKey;

/// Minimum time for which an id stays reserved. Backends may run on after a call's deadline.
const MIN_KEPT: Duration = Duration::from_secs(5 * 60);
/// Maximum number of ids per session.
const MAX_IDS: usize = 64;
/// Maximum number of sessions with reserved ids.
const MAX_SESSIONS: usize = 4096;

/// Reserved ids of all sessions. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct AbandonedCalls {
    shared: Arc<Mutex<Shared>>,
    hashes: RandomState,
}

#[derive(Debug, Default)]
struct Shared {
    sessions: HashMap<RecordKey, Ids>,
    /// Until when all ids of all sessions are reserved, because there were too many sessions.
    all_until: Option<Instant>,
}

/// Reserved ids of one session.
#[derive(Debug, Default)]
struct Ids {
    /// Hashes, because an id may be long. A collision only reserves one id too many.
    taken: Vec<(u64, Instant)>,
    /// Until when all ids are reserved, because there were too many.
    all_until: Option<Instant>,
}

impl AbandonedCalls {
    /// Reserves the id of an abandoned call of the session `key`. `deadline` is the call's.
    pub(super) fn add(&self, key: RecordKey, id: &str, deadline: Instant) {
        let now = Instant::now();
        let until = deadline.max(now + MIN_KEPT);
        let mut shared = self.lock();
        if shared.sessions.len() >= MAX_SESSIONS && !shared.sessions.contains_key(&key) {
            shared.sessions.retain(|_, ids| ids.is_needed(now));
            if shared.sessions.len() >= MAX_SESSIONS {
                shared.all_until = shared.all_until.max(Some(until));
                return;
            }
        }
        shared
            .sessions
            .entry(key)
            .or_default()
            .add(self.hashes.hash_one(id), until, now);
    }

    /// Whether the id is reserved in the session `key`.
    pub(super) fn has(&self, key: &RecordKey, id: &str) -> bool {
        let shared = self.lock();
        if shared.sessions.is_empty() && shared.all_until.is_none() {
            return false;
        }
        let now = Instant::now();
        let ids = shared.sessions.get(key);
        shared.all_until > Some(now) || ids.is_some_and(|ids| ids.have(self.hashes.hash_one(id), now))
    }

    /// Releases the ids of the session `key`, which has ended.
    pub(super) fn forget(&self, key: &RecordKey) {
        self.lock().sessions.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ids {
    fn add(&mut self, id: u64, until: Instant, now: Instant) {
        self.taken.retain(|(other, until)| *other != id && *until > now);
        if self.taken.len() >= MAX_IDS {
            self.all_until = self.all_until.max(Some(until));
        } else {
            self.taken.push((id, until));
        }
    }

    fn have(&self, id: u64, now: Instant) -> bool {
        let same = |(other, until): &(u64, Instant)| *other == id && *until > now;
        self.all_until > Some(now) || self.taken.iter().any(same)
    }

    fn is_needed(&self, now: Instant) -> bool {
        self.all_until > Some(now) || self.taken.iter().any(|(_, until)| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn id_stays_taken_until_its_deadline_or_five_minutes() {
        let (abandoned, session, other) = (AbandonedCalls::default(), RecordKey([1; 16]), RecordKey([2; 16]));
        let seconds = Duration::from_secs;
        abandoned.add(session, "1", Instant::now());
        abandoned.add(session, "2", Instant::now() + seconds(600));
        assert!(abandoned.has(&session, "1") && !abandoned.has(&session, "3") && !abandoned.has(&other, "1"));
        tokio::time::advance(seconds(301)).await;
        assert!(!abandoned.has(&session, "1") && abandoned.has(&session, "2"));
        tokio::time::advance(seconds(300)).await;
        assert!(!abandoned.has(&session, "2"));
    }

    #[tokio::test(start_paused = true)]
    async fn every_id_is_taken_while_the_list_is_full() {
        let (abandoned, other) = (AbandonedCalls::default(), RecordKey([255; 16]));
        let session = RecordKey([1; 16]);
        for id in 0..=MAX_IDS {
            assert!(!abandoned.has(&session, "new"), "{id}");
            abandoned.add(session, &id.to_string(), Instant::now());
        }
        assert!(abandoned.has(&session, "new") && !abandoned.has(&other, "new"));
        for number in 0..MAX_SESSIONS {
            let mut key = [2; 16];
            key[..8].copy_from_slice(&number.to_le_bytes());
            abandoned.add(RecordKey(key), "1", Instant::now());
        }
        assert!(abandoned.has(&other, "new"));
        assert_eq!(abandoned.lock().sessions.len(), MAX_SESSIONS);
        tokio::time::advance(MIN_KEPT).await;
        assert!(!abandoned.has(&session, "new") && !abandoned.has(&other, "new"));
        abandoned.add(session, "1", Instant::now());
        abandoned.forget(&session);
        assert!(!abandoned.has(&session, "1"));
    }
}
