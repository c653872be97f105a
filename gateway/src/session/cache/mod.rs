//! In-memory cache of session records, so that most calls need no read of the store.
//!
//! The cache is bounded in entries and bytes. At the limit it evicts by second chance (CLOCK), an approximation of
//! LRU; it never refuses an entry. Entries in use by a running request or an open stream are not evicted, so that all
//! requests of a session share one [`CacheEntry`].
//!
//! It also keeps tombstones of terminated sessions. Invariant: once a session's tombstone is here, no record of it is
//! cached, not even one whose read began before the termination.

pub(super) mod cache_entry;
pub(super) mod freshness;
pub(super) mod key_map;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::record::{Record, RecordKey};
use super::store::SessionLife;
use crate::budget::Account;
use crate::session::cache::cache_entry::CacheEntry;
use crate::session::cache::freshness::ReadStamp;
use crate::session::cache::key_map::KeyMap;

/// Maximum number of entries examined per eviction.
const LOOKS: usize = 64;

/// The cached records and the tombstones.
#[derive(Debug)]
pub(super) struct SessionCache {
    limit: usize,
    /// Memory budget of the cached records.
    account: Account,
    shared: RwLock<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    entries: KeyMap<Arc<CacheEntry>>,
    /// Eviction order of the entries. Keys of removed entries remain until they are reached.
    order: VecDeque<RecordKey>,
    ended: KeyMap<EndedSessions>,
    /// Keys of the tombstones, oldest first.
    ended_order: VecDeque<RecordKey>,
    /// Time of the last change event for a key that was not cached.
    changed: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct EndedSessions {
    life: SessionLife,
    at: Instant,
}

/// Result of a cache lookup.
#[derive(Clone, Debug)]
pub(super) enum CachedSession {
    /// The session is cached.
    Entry(Arc<CacheEntry>),
    /// The session was terminated.
    Ended,
    /// The cache does not know the session.
    Nothing,
}

impl SessionCache {
    /// Creates an empty cache. `limit` and `account` bound the entries that are not in use.
    pub(super) fn new(limit: usize, account: Account) -> Self {
        Self {
            limit,
            account,
            shared: RwLock::default(),
        }
    }

    /// Looks up `key` and sets the entry's reference bit.
    pub(super) fn get(&self, key: &RecordKey) -> CachedSession {
        let shared = self.read();
        match shared.entries.get(key) {
            Some(entry) => {
                entry.wanted.store(true, Ordering::Relaxed);
                CachedSession::Entry(Arc::clone(entry))
            }
            None if shared.ended.contains_key(key) => CachedSession::Ended,
            None => CachedSession::Nothing,
        }
    }

    /// Looks up `key` without protecting the entry from eviction.
    pub(super) fn peek(&self, key: &RecordKey) -> Option<Arc<CacheEntry>> {
        self.read().entries.get(key).map(Arc::clone)
    }

    /// Caches `record`, which was read at `reading`. Returns `None` if the session was terminated meanwhile.
    pub(super) fn put(&self, key: &RecordKey, record: Record, reading: ReadStamp) -> Option<Arc<CacheEntry>> {
        let mut shared = self.write();
        if shared.ended.contains_key(key) {
            return None;
        }
        if let Some(entry) = shared.entries.get(key).map(Arc::clone) {
            drop(shared);
            entry.update(record, reading);
            if self.account.is_overdrawn() {
                self.write().forget(self.limit, &self.account);
            }
            return Some(entry);
        }
        let entry = Arc::new(CacheEntry::new(record, reading, shared.changed));
        entry.count_in(&self.account);
        shared.entries.insert(*key, Arc::clone(&entry));
        shared.order.push_back(*key);
        shared.forget(self.limit, &self.account);
        Some(entry)
    }

    /// Makes the entry of `key` stale. If `key` is not cached, a load may be running; remembering the time keeps its
    /// result from counting as fresh.
    pub(super) fn changed(&self, key: &RecordKey) {
        let mut shared = self.write();
        match shared.entries.get(key) {
            Some(entry) => entry.invalidate(),
            None => shared.changed = Some(Instant::now()),
        }
    }

    /// Drops the entry of `key`, because the store has no record.
    pub(super) fn remove(&self, key: &RecordKey) {
        self.write().entries.remove(key);
    }

    /// Drops the entry of `key` and keeps a tombstone.
    pub(super) fn end(&self, key: &RecordKey, life: SessionLife) {
        let mut shared = self.write();
        shared.entries.remove(key);
        let ended = EndedSessions {
            life,
            at: Instant::now(),
        };
        if shared.ended.insert(*key, ended).is_none() {
            shared.ended_order.push_back(*key);
        }
        while shared.ended_order.len() > self.limit {
            if let Some(oldest) = shared.ended_order.pop_front() {
                shared.ended.remove(&oldest);
            }
        }
    }

    /// Drops expired entries among the next `looks` ones, except those in use and those that `kept` selects. `idle`
    /// is the idle lifetime.
    pub(super) fn forget_expired(&self, idle: Duration, looks: usize, kept: impl Fn(&RecordKey) -> bool) {
        let mut shared = self.write();
        for _ in 0..looks.min(shared.order.len()) {
            let Some(key) = shared.order.pop_front() else {
                break;
            };
            let Some(entry) = shared.entries.get(&key) else {
                continue;
            };
            // The map itself holds one reference.
            if Arc::strong_count(entry) > 1 || entry.lives_on(idle) || kept(&key) {
                shared.order.push_back(key);
            } else {
                shared.entries.remove(&key);
            }
        }
    }

    /// Number of keys in the eviction order.
    pub(super) fn len(&self) -> usize {
        self.read().order.len()
    }

    /// All cached sessions.
    pub(super) fn entries(&self) -> Vec<(RecordKey, Arc<CacheEntry>)> {
        let shared = self.read();
        shared
            .entries
            .iter()
            .map(|(key, entry)| (*key, Arc::clone(entry)))
            .collect()
    }

    /// The tombstones of the last `ago`, or all of them without `ago`.
    pub(super) fn ended(&self, ago: Option<Duration>) -> Vec<(RecordKey, SessionLife)> {
        let shared = self.read();
        let recent = |ended: &EndedSessions| ago.is_none_or(|ago| ended.at.elapsed() <= ago);
        let ended = shared.ended.iter().filter(|(_, ended)| recent(ended));
        ended.map(|(key, ended)| (*key, ended.life)).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Shared> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Shared> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Evicts entries until `limit` and `account` are met. An entry in use, or with its reference bit set, gets a
    /// second chance. The last examined entry is evicted even with its bit set, so the loop ends.
    fn forget(&mut self, limit: usize, account: &Account) {
        let mut looks = 0;
        while (self.entries.len() > limit || account.is_overdrawn()) && looks < LOOKS {
            let Some(key) = self.order.pop_front() else { return };
            let Some(entry) = self.entries.get(&key) else {
                continue;
            };
            looks += 1;
            let spared = entry.was_wanted() && looks < LOOKS;
            // The map itself holds one reference; any other one means use.
            if spared || Arc::strong_count(entry) > 1 {
                self.order.push_back(key);
            } else {
                self.entries.remove(&key);
            }
        }
        if self.order.len() > self.entries.len() * 2 + LOOKS {
            let Self { order, entries, .. } = self;
            order.retain(|key| entries.contains_key(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::cache::cache_entry::tests::{FIRST, IDLE, reading, record};
    use crate::session::cache::freshness::Freshness;

    const LIFE: SessionLife = SessionLife {
        incarnation: FIRST,
        end: 2_000_000_000,
    };

    fn cache(limit: usize) -> SessionCache {
        SessionCache::new(limit, Account::root(usize::MAX))
    }

    fn key(number: u32) -> RecordKey {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&number.to_be_bytes());
        RecordKey(key)
    }

    fn is_remembered(cache: &SessionCache, number: u32) -> bool {
        matches!(cache.get(&key(number)), CachedSession::Entry(_))
    }

    #[tokio::test(start_paused = true)]
    async fn at_its_limit_it_forgets_what_nobody_wants_and_never_what_is_in_use() {
        let cache = cache(100);
        let used = cache.put(&key(0), record(1), reading(1)).unwrap();
        for number in 1..100 {
            cache.put(&key(number), record(1), reading(1)).unwrap();
        }
        for number in 100..1000 {
            assert!(is_remembered(&cache, 1), "it is wanted all the time, at {number}");
            cache.put(&key(number), record(1), reading(1)).unwrap();
            assert!(cache.entries().len() <= 101);
        }
        assert!(is_remembered(&cache, 999) && !is_remembered(&cache, 2));
        let again = cache.put(&key(0), record(2), reading(1)).unwrap();
        assert!(Arc::ptr_eq(&used, &again), "who uses it sees what others learn");
    }

    /// The cache counts bytes as well as entries, also when a cached record grows.
    #[test]
    fn heavy_sessions_are_forgotten_by_their_bytes() {
        const KIB: usize = 1024;
        let account = Account::root(100 * KIB);
        let cache = SessionCache::new(1000, account.clone());
        let heavy = |version| Record {
            capabilities: "x".repeat(9 * KIB).into(),
            ..record(version)
        };
        let used = cache.put(&key(0), heavy(1), reading(1)).unwrap();
        for number in 1..50 {
            cache.put(&key(number), heavy(1), reading(1)).unwrap();
            assert!(account.reserved() <= 101 * KIB, "{}", account.reserved());
        }
        assert_eq!(cache.entries().len(), 9);
        assert!(is_remembered(&cache, 49) && is_remembered(&cache, 0));
        // Light records fit in larger numbers.
        for number in 100..190 {
            cache.put(&key(number), record(1), reading(1)).unwrap();
        }
        let count = cache.entries().len();
        assert!((80..=100).contains(&count), "{count}");
        let grown = Record {
            subscriptions: [("y".repeat(20 * KIB), "a".to_owned())].into(),
            ..heavy(2)
        };
        cache.put(&key(0), grown, reading(1)).unwrap();
        assert!(account.reserved() <= 101 * KIB && cache.entries().len() < count);
        drop((used, cache));
        assert_eq!(account.reserved(), 0);
    }

    /// Expired entries are dropped. An entry in use stays even after its deadline.
    #[tokio::test(start_paused = true)]
    async fn expired_entries_are_forgotten_unless_in_use() {
        let cache = cache(100);
        let used = cache.put(&key(0), record(1), reading(1)).unwrap();
        for number in 1..50 {
            cache.put(&key(number), record(1), reading(1)).unwrap();
        }
        tokio::time::advance(IDLE / 2).await;
        cache.put(&key(50), record(1), reading(1)).unwrap();
        cache.forget_expired(IDLE, 100, |_| false);
        assert_eq!(cache.entries().len(), 51);
        tokio::time::advance(IDLE / 2).await;
        cache.forget_expired(IDLE, 10, |_| false);
        assert_eq!(cache.entries().len(), 51 - 9);
        cache.forget_expired(IDLE, cache.len(), |kept| *kept == key(20));
        let mut left: Vec<_> = cache.entries().into_iter().map(|(key, _)| key).collect();
        left.sort();
        assert_eq!(left, [key(0), key(20), key(50)]);
        drop(used);
        cache.forget_expired(IDLE, cache.len(), |_| false);
        assert!(is_remembered(&cache, 50) && !is_remembered(&cache, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_arrives_behind_the_end_of_its_session_is_not_believed() {
        let cache = cache(2);
        let read_before = reading(1);
        cache.end(&key(1), LIFE);
        assert!(cache.put(&key(1), record(1), read_before).is_none());
        assert!(matches!(cache.get(&key(1)), CachedSession::Ended));
        cache.put(&key(2), record(1), reading(1)).unwrap();
        cache.end(&key(2), LIFE);
        assert!(matches!(cache.get(&key(2)), CachedSession::Ended));
        assert_eq!(cache.ended(None).len(), 2);
        // Only the latest tombstones are kept.
        tokio::time::advance(Duration::from_secs(2)).await;
        cache.end(&key(3), LIFE);
        assert!(matches!(cache.get(&key(1)), CachedSession::Nothing));
        assert_eq!(cache.ended(Some(Duration::from_secs(1))), [(key(3), LIFE)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_changes_while_it_is_read_for_the_first_time_is_read_again() {
        let (cache, proof) = (cache(10), Freshness::new(Duration::from_secs(9)));
        proof.proved(Instant::now());
        let asked = proof.stamp_now();
        tokio::time::advance(Duration::from_millis(1)).await;
        cache.changed(&key(1));
        let entry = cache.put(&key(1), record(1), asked).unwrap();
        assert!(!entry.is_valid(&proof));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(
            cache
                .put(&key(2), record(1), proof.stamp_now())
                .unwrap()
                .is_valid(&proof)
        );
        assert!(
            cache
                .put(&key(1), record(1), proof.stamp_now())
                .unwrap()
                .is_valid(&proof)
        );
    }

    #[test]
    fn sessions_that_come_and_go_leave_nothing_behind() {
        let cache = cache(10);
        for number in 0..10_000 {
            cache.put(&key(number), record(1), reading(1)).unwrap();
            cache.remove(&key(number));
        }
        assert!(cache.read().entries.is_empty());
        assert!(cache.read().order.len() <= LOOKS + 1);
    }
}
