//! In-memory cache of session records, so that most calls need no read of the store.
//!
//! The cache is bounded in entries and bytes. At the limit it evicts by second chance (CLOCK), an approximation of
//! LRU; it never refuses an entry. Entries in use by a running request or an open stream are not evicted, so that all
//! requests of a session share one [`CacheEntry`].
//!
//! It also keeps the [`Tombstones`] of terminated sessions, under the same lock. Invariant: once a session's tombstone is
//! here, no record of it is cached, not even one whose read began before the termination.

pub(super) mod cache_entry;
pub(super) mod freshness;
pub(super) mod list_attempts;
pub(super) mod pending_touches;
pub(super) mod session_lists;
mod tombstones;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::record::{Record, RecordKey, SessionLife};
use crate::budget::Account;
use crate::session::cache::cache_entry::CacheEntry;
use crate::session::cache::freshness::{Freshness, ReadStamp};
use crate::session::cache::tombstones::Tombstones;

/// Maximum number of entries examined per eviction.
const MAX_EXAMINED: usize = 64;

/// The cached records and the tombstones.
#[derive(Debug)]
pub(super) struct SessionCache {
    limit: usize,
    freshness: Freshness,
    /// Memory budget of the cached records.
    account: Account,
    shared: RwLock<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    entries: HashMap<RecordKey, Arc<CacheEntry>>,
    /// Eviction order of the entries. Keys of removed entries remain until they are reached.
    order: VecDeque<RecordKey>,
    tombstones: Tombstones,
    /// Time of the last change event for a key that was not cached.
    changed: Option<Instant>,
}

/// Result of a cache lookup.
#[derive(Clone, Debug)]
pub(super) enum CachedSession {
    /// The cached record, which may be stale.
    Entry(Arc<CacheEntry>),
    /// The session was terminated here or on another replica.
    Terminated,
    /// The cache does not know the session.
    Unknown,
}

impl SessionCache {
    /// Creates an empty cache. `limit` and `account` bound the entries that are not in use.
    pub(super) fn new(limit: usize, account: Account, freshness: Freshness) -> Self {
        Self {
            limit,
            freshness,
            account,
            shared: RwLock::default(),
        }
    }

    /// The lease that decides whether entries are fresh.
    pub(super) fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// Stamp of a read that begins now.
    pub(super) fn stamp_now(&self) -> ReadStamp {
        self.freshness.stamp_now()
    }

    /// Looks up `key` and sets the entry's reference bit.
    pub(super) fn get(&self, key: &RecordKey) -> CachedSession {
        let shared = self.read();
        match shared.entries.get(key) {
            Some(entry) => {
                entry.referenced.store(true, Ordering::Relaxed);
                CachedSession::Entry(Arc::clone(entry))
            }
            None if shared.tombstones.contains(key) => CachedSession::Terminated,
            None => CachedSession::Unknown,
        }
    }

    /// Looks up `key` without protecting the entry from eviction.
    pub(super) fn peek(&self, key: &RecordKey) -> Option<Arc<CacheEntry>> {
        self.read().entries.get(key).map(Arc::clone)
    }

    /// Caches `record`, which was read at `stamp`. Returns `None` if the session was terminated meanwhile.
    pub(super) fn insert(
        &self,
        key: &RecordKey,
        record: Record,
        stamp: ReadStamp,
    ) -> Option<Arc<CacheEntry>> {
        let mut shared = self.write();
        if shared.tombstones.contains(key) {
            return None;
        }
        if let Some(entry) = shared.entries.get(key).map(Arc::clone) {
            drop(shared);
            entry.update(record, stamp);
            if self.account.is_overdrawn() {
                self.write().evict(self.limit, &self.account);
            }
            return Some(entry);
        }
        let entry = Arc::new(CacheEntry::new(record, stamp, shared.changed));
        entry.reserve_memory(&self.account);
        shared.entries.insert(*key, Arc::clone(&entry));
        shared.order.push_back(*key);
        shared.evict(self.limit, &self.account);
        Some(entry)
    }

    /// Updates `entry`, which a request holds, and caches `record`, which was read at `stamp`. Returns `false` if the session
    /// was terminated meanwhile.
    pub(super) fn update(
        &self,
        key: &RecordKey,
        entry: &CacheEntry,
        record: Record,
        stamp: ReadStamp,
    ) -> bool {
        entry.update(record.clone(), stamp);
        self.insert(key, record, stamp).is_some()
    }

    /// Makes the entry of `key` stale. If `key` is not cached, a load may be running; remembering the time keeps its
    /// result from counting as fresh.
    pub(super) fn invalidate(&self, key: &RecordKey) {
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
    pub(super) fn terminate(&self, key: &RecordKey, life: SessionLife) {
        let mut shared = self.write();
        shared.entries.remove(key);
        shared.tombstones.add(*key, life, self.limit);
    }

    /// Drops expired entries among the next `examined` ones, except those in use and those that `kept` selects. `idle`
    /// is the idle lifetime.
    pub(super) fn drop_expired(&self, idle: Duration, examined: usize, kept: impl Fn(&RecordKey) -> bool) {
        let mut shared = self.write();
        for _ in 0..examined.min(shared.order.len()) {
            let Some(key) = shared.order.pop_front() else {
                break;
            };
            let Some(entry) = shared.entries.get(&key) else {
                continue;
            };
            // The map itself holds one reference.
            if Arc::strong_count(entry) > 1 || entry.is_alive(idle) || kept(&key) {
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
    pub(super) fn tombstones(&self, ago: Option<Duration>) -> Vec<(RecordKey, SessionLife)> {
        self.read().tombstones.since(ago)
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
    fn evict(&mut self, limit: usize, account: &Account) {
        let mut examined = 0;
        while (self.entries.len() > limit || account.is_overdrawn()) && examined < MAX_EXAMINED {
            let Some(key) = self.order.pop_front() else { return };
            let Some(entry) = self.entries.get(&key) else {
                continue;
            };
            examined += 1;
            let spared = entry.take_referenced() && examined < MAX_EXAMINED;
            // The map itself holds one reference; any other one means use.
            if spared || Arc::strong_count(entry) > 1 {
                self.order.push_back(key);
            } else {
                self.entries.remove(&key);
            }
        }
        if self.order.len() > self.entries.len() * 2 + MAX_EXAMINED {
            let Self { order, entries, .. } = self;
            order.retain(|key| entries.contains_key(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::cache::cache_entry::tests::{FIRST, IDLE, record, stamp};

    const LIFE: SessionLife = SessionLife {
        incarnation: FIRST,
        end: 2_000_000_000,
    };

    fn cache(limit: usize) -> SessionCache {
        SessionCache::new(
            limit,
            Account::root(usize::MAX),
            Freshness::new(Duration::from_secs(9)),
        )
    }

    fn key(number: u32) -> RecordKey {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&number.to_be_bytes());
        RecordKey(key)
    }

    fn is_cached(cache: &SessionCache, number: u32) -> bool {
        matches!(cache.get(&key(number)), CachedSession::Entry(_))
    }

    #[tokio::test(start_paused = true)]
    async fn full_cache_evicts_unused_and_keeps_entries_in_use() {
        // At the limit the cache evicts entries without recent lookups, and never one in use.
        let cache = cache(100);
        let used = cache.insert(&key(0), record(1), stamp(1)).unwrap();
        for number in 1..100 {
            cache.insert(&key(number), record(1), stamp(1)).unwrap();
        }
        for number in 100..1000 {
            assert!(is_cached(&cache, 1), "it is referenced all the time, at {number}");
            cache.insert(&key(number), record(1), stamp(1)).unwrap();
            assert!(cache.entries().len() <= 101);
        }
        assert!(is_cached(&cache, 999) && !is_cached(&cache, 2));
        let again = cache.insert(&key(0), record(2), stamp(1)).unwrap();
        assert!(Arc::ptr_eq(&used, &again), "all users share one entry");
    }

    /// The cache counts bytes as well as entries, also when a cached record grows.
    #[test]
    fn heavy_entries_are_evicted_by_bytes() {
        const KIB: usize = 1024;
        let account = Account::root(100 * KIB);
        let cache = SessionCache::new(1000, account.clone(), Freshness::new(Duration::from_secs(9)));
        let heavy = |version| Record {
            capabilities: "x".repeat(9 * KIB).into(),
            ..record(version)
        };
        let used = cache.insert(&key(0), heavy(1), stamp(1)).unwrap();
        for number in 1..50 {
            cache.insert(&key(number), heavy(1), stamp(1)).unwrap();
            assert!(account.reserved() <= 101 * KIB, "{}", account.reserved());
        }
        assert_eq!(cache.entries().len(), 9);
        assert!(is_cached(&cache, 49) && is_cached(&cache, 0));
        // Light records fit in larger numbers.
        for number in 100..190 {
            cache.insert(&key(number), record(1), stamp(1)).unwrap();
        }
        let count = cache.entries().len();
        assert!((80..=100).contains(&count), "{count}");
        let grown = Record {
            subscriptions: [("y".repeat(20 * KIB), "a".to_owned())].into(),
            ..heavy(2)
        };
        cache.insert(&key(0), grown, stamp(1)).unwrap();
        assert!(account.reserved() <= 101 * KIB && cache.entries().len() < count);
        drop((used, cache));
        assert_eq!(account.reserved(), 0);
    }

    /// Expired entries are dropped. An entry in use stays even after its deadline.
    #[tokio::test(start_paused = true)]
    async fn expired_entries_are_dropped_unless_in_use() {
        let cache = cache(100);
        let used = cache.insert(&key(0), record(1), stamp(1)).unwrap();
        for number in 1..50 {
            cache.insert(&key(number), record(1), stamp(1)).unwrap();
        }
        tokio::time::advance(IDLE / 2).await;
        cache.insert(&key(50), record(1), stamp(1)).unwrap();
        cache.drop_expired(IDLE, 100, |_| false);
        assert_eq!(cache.entries().len(), 51);
        tokio::time::advance(IDLE / 2).await;
        cache.drop_expired(IDLE, 10, |_| false);
        assert_eq!(cache.entries().len(), 51 - 9);
        cache.drop_expired(IDLE, cache.len(), |kept| *kept == key(20));
        let mut left: Vec<_> = cache.entries().into_iter().map(|(key, _)| key).collect();
        left.sort();
        assert_eq!(left, [key(0), key(20), key(50)]);
        drop(used);
        cache.drop_expired(IDLE, cache.len(), |_| false);
        assert!(is_cached(&cache, 50) && !is_cached(&cache, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn record_loaded_before_termination_is_not_cached() {
        // A record that arrives after its session's termination is refused.
        let cache = cache(2);
        let read_before = stamp(1);
        cache.terminate(&key(1), LIFE);
        assert!(cache.insert(&key(1), record(1), read_before).is_none());
        assert!(matches!(cache.get(&key(1)), CachedSession::Terminated));
        cache.insert(&key(2), record(1), stamp(1)).unwrap();
        cache.terminate(&key(2), LIFE);
        assert!(matches!(cache.get(&key(2)), CachedSession::Terminated));
        // The cache's limit bounds the tombstones, too.
        cache.terminate(&key(3), LIFE);
        assert!(matches!(cache.get(&key(1)), CachedSession::Unknown));
    }

    #[tokio::test(start_paused = true)]
    async fn record_changed_during_its_first_load_is_not_fresh() {
        // A change event for an uncached key makes a load that began earlier stale.
        let cache = cache(10);
        let freshness = cache.freshness();
        freshness.renew(Instant::now());
        let asked = freshness.stamp_now();
        tokio::time::advance(Duration::from_millis(1)).await;
        cache.invalidate(&key(1));
        let entry = cache.insert(&key(1), record(1), asked).unwrap();
        assert!(!entry.is_fresh(freshness));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(
            cache
                .insert(&key(2), record(1), freshness.stamp_now())
                .unwrap()
                .is_fresh(freshness)
        );
        assert!(
            cache
                .insert(&key(1), record(1), freshness.stamp_now())
                .unwrap()
                .is_fresh(freshness)
        );
    }

    #[test]
    fn removed_sessions_leave_no_memory() {
        // Inserting and removing many sessions leaves neither entries nor an unbounded eviction order.
        let cache = cache(10);
        for number in 0..10_000 {
            cache.insert(&key(number), record(1), stamp(1)).unwrap();
            cache.remove(&key(number));
        }
        assert!(cache.read().entries.is_empty());
        assert!(cache.read().order.len() <= MAX_EXAMINED + 1);
    }
}
