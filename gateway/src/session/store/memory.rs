//! Session store in the memory of one process. The sessions end with the process.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use futures::stream::BoxStream;
use tokio::time::Instant;

use super::{
    BindOutcome, CreateOutcome, Incarnation, LoadOutcome, MAX_SUBSCRIPTIONS, ProcessId, RecoverOutcome,
    RestoreReason, SessionLife, SessionLimit, SessionStore, SetOutcome, SettingChange, StoreError,
    StoreEvent, StoredOffers, StreamClaim, TerminateOutcome, TouchOutcome,
};
use crate::config::SessionLimits;
use crate::runtime::clock;
use crate::session::record::bindings::Bindings;
use crate::session::record::{Binding, Lifetimes, NewRecord, PrincipalTag, Record, RecordKey};

/// Maximum number of records that a creation checks for expiry, so that no client waits for all of them. More than one, so that records
/// that expire together are gone soon.
const CHECKS_PER_CREATION: usize = 16;

/// Estimated size of a record without the parts that the client controls.
const RECORD_BYTES: usize = 1024;
/// Maximum number of expired records that wait for the sweeper. Beyond it the oldest are dropped, and their upstream
/// sessions are left to the backends.
const MAX_EXPIRED: usize = 100_000;

/// Session store in the memory of this process.
#[derive(Debug)]
pub struct MemoryStore {
    /// Not held across an await. Only a claim, or a creation in a full store, visits more than a few records.
    shared: Mutex<Shared>,
    incarnation: Incarnation,
    lifetimes: Lifetimes,
    /// Maximum size of all records in bytes.
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Shared {
    records: HashMap<RecordKey, Entry>,
    /// When each record has to be checked for expiry, earliest first. A record that was used since is then given a later time.
    checks: BTreeSet<(Instant, RecordKey)>,
    /// Size of all records, including expired ones that are not claimed.
    bytes: usize,
    /// Number of records per principal.
    owned: HashMap<PrincipalTag, u32>,
    /// Expired records that are not claimed yet.
    expired: VecDeque<(RecordKey, Entry)>,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    touched: Instant,
    idle_deadline: Instant,
    end: Instant,
    /// The record's time in [`Shared::checks`]; at or before `idle_deadline`.
    check: Instant,
    /// Number of claims of the session's GET stream.
    streams: u64,
}

impl MemoryStore {
    /// Creates an empty store.
    #[must_use]
    pub fn new(lifetimes: Lifetimes) -> Self {
        Self {
            shared: Mutex::default(),
            incarnation: Incarnation(crate::runtime::random::bytes()),
            lifetimes,
            max_bytes: usize::MAX,
        }
    }

    /// Limits the total size of all records to about `bytes`.
    #[must_use]
    pub fn within(self, bytes: usize) -> Self {
        Self {
            max_bytes: bytes,
            ..self
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create_now(&self, key: RecordKey, new: &NewRecord, limits: SessionLimits) -> CreateOutcome {
        let now = Instant::now();
        let mut shared = self.lock();
        if shared.records.get(&key).is_some_and(|entry| entry.lives(now)) {
            return CreateOutcome::AlreadyExists;
        }
        shared.sweep(now, CHECKS_PER_CREATION);
        if let Some(of) = shared.limit_reached(new, limits, self.max_bytes, now) {
            return CreateOutcome::Limit(of);
        }
        // An expired record may still have this key.
        shared.remove(&key);
        *shared.owned.entry(new.principal_tag).or_default() += 1;
        let created = seconds(clock::unix_seconds());
        let end = now + self.lifetimes.max;
        let idle_deadline = (now + self.lifetimes.idle).min(end);
        let record = Record {
            principal_tag: new.principal_tag,
            revision: new.revision,
            capabilities: new.capabilities.clone(),
            client_info: new.client_info.clone(),
            life: SessionLife {
                incarnation: self.incarnation,
                end: created.saturating_add(seconds(self.lifetimes.max.as_secs())),
            },
            version: 1,
            untouched: Duration::ZERO,
            left: idle_deadline - now,
            remaining: end - now,
            log_level: None,
            subscriptions: std::collections::BTreeMap::new(),
            bindings: Bindings::default(),
        };
        let entry = Entry {
            record: record.clone(),
            touched: now,
            idle_deadline,
            end,
            check: idle_deadline,
            streams: 0,
        };
        shared.bytes += weight(&entry.record);
        shared.checks.insert((entry.check, key));
        shared.records.insert(key, entry);
        CreateOutcome::Created { created, record }
    }

    fn with_live<T>(&self, key: &RecordKey, change: impl FnOnce(&mut Entry, Instant) -> T) -> Option<T> {
        let now = Instant::now();
        let mut shared = self.lock();
        let entry = shared.records.get_mut(key).filter(|entry| entry.lives(now))?;
        Some(change(entry, now))
    }

    fn bind_now(&self, key: &RecordKey, backend: &str, expected: u64, binding: &Binding) -> BindOutcome {
        let bound = self.with_live(key, |entry, now| {
            if entry.record.generation(backend) != expected {
                return BindOutcome::Lost(entry.read(now));
            }
            entry.record.bindings.insert(backend, binding.clone());
            entry.record.version += 1;
            BindOutcome::Bound(entry.read(now))
        });
        bound.unwrap_or(BindOutcome::Gone)
    }

    fn set_now(&self, key: &RecordKey, setting: &SettingChange) -> SetOutcome {
        let now = Instant::now();
        let mut shared = self.lock();
        let Shared { records, bytes, .. } = &mut *shared;
        let Some(entry) = records.get_mut(key).filter(|entry| entry.lives(now)) else {
            return SetOutcome::Gone;
        };
        let before = weight(&entry.record);
        let set = {
            let record = &mut entry.record;
            match setting {
                SettingChange::LogLevel(level) => record.log_level = Some(level.clone()),
                SettingChange::Subscribe { uri, backend } => {
                    let watched = &mut record.subscriptions;
                    let is_full = watched.len() >= MAX_SUBSCRIPTIONS || *bytes >= self.max_bytes;
                    if is_full && !watched.contains_key(uri) {
                        return SetOutcome::Full;
                    }
                    watched.insert(uri.clone(), backend.clone());
                }
                SettingChange::Unsubscribe { uri } => drop(record.subscriptions.remove(uri)),
            }
            record.version += 1;
            SetOutcome::Set(entry.read(now))
        };
        *bytes = *bytes - before + weight(&entry.record);
        set
    }

    fn touch_now(&self, key: &RecordKey) -> TouchOutcome {
        let touched = self.with_live(key, |entry, now| {
            entry.touched = now;
            entry.idle_deadline = (now + self.lifetimes.idle).min(entry.end);
            TouchOutcome::Alive {
                version: entry.record.version,
                left: entry.idle_deadline - now,
            }
        });
        touched.unwrap_or(TouchOutcome::Gone)
    }

    fn terminate_now(&self, key: &RecordKey) -> TerminateOutcome {
        let now = Instant::now();
        let mut shared = self.lock();
        // An expired record is left for the sweeper.
        if !shared.records.get(key).is_some_and(|entry| entry.lives(now)) {
            return TerminateOutcome::Gone;
        }
        let ended = shared.remove(key).map(|entry| entry.read(now));
        ended.map_or(TerminateOutcome::Gone, |record| {
            TerminateOutcome::Terminated(Some(record))
        })
    }

    fn claim_stream_now(&self, key: &RecordKey) -> StreamClaim {
        let number = self.with_live(key, |entry, _| {
            entry.streams += 1;
            entry.streams
        });
        number.map_or(StreamClaim::Gone, StreamClaim::Owned)
    }

    /// Claims expired records and removes them at once, because there is no other process to take over.
    fn claim_now(&self, limit: usize) -> Vec<(RecordKey, Record)> {
        let now = Instant::now();
        let mut shared = self.lock();
        shared.sweep(now, usize::MAX);
        let count = limit.min(shared.expired.len());
        let claimed: Vec<_> = shared.expired.drain(..count).collect();
        let bytes: usize = claimed.iter().map(|(_, entry)| weight(&entry.record)).sum();
        shared.bytes -= bytes;
        let read = |(key, entry): (RecordKey, Entry)| (key, entry.read(now));
        claimed.into_iter().map(read).collect()
    }

    /// Returns the record if it is alive. This store never loses data while the process runs, so there is nothing to
    /// recover.
    fn recover_now(&self, key: &RecordKey) -> RecoverOutcome {
        let found = self.with_live(key, |entry, now| RecoverOutcome::Found(entry.read(now)));
        found.unwrap_or(RecoverOutcome::Gone)
    }
}

impl Shared {
    /// Which limit is reached, after expired records are removed.
    fn limit_reached(
        &mut self,
        new: &NewRecord,
        limits: SessionLimits,
        max_bytes: usize,
        now: Instant,
    ) -> Option<SessionLimit> {
        self.at_limit(new, limits, max_bytes)?;
        self.sweep(now, usize::MAX);
        self.at_limit(new, limits, max_bytes)
    }

    fn at_limit(&self, new: &NewRecord, limits: SessionLimits, max_bytes: usize) -> Option<SessionLimit> {
        let below = |count: usize, limit: u32| u32::try_from(count).is_ok_and(|count| count < limit);
        if !below(self.records.len(), limits.server) || self.bytes >= max_bytes {
            return Some(SessionLimit::Server);
        }
        let tags = std::iter::once(&new.principal_tag).chain(&new.other_tags);
        let owned: u32 = tags.filter_map(|tag| self.owned.get(tag)).sum();
        (owned >= limits.principal).then_some(SessionLimit::Principal)
    }

    /// Removes expired records, after at most `limit` checks. Each costs the logarithm of the number of records, and a record is checked
    /// again only when it can have expired.
    fn sweep(&mut self, now: Instant, limit: usize) {
        for _ in 0..limit {
            let Some(&(check, key)) = self.checks.first().filter(|(check, _)| *check <= now) else {
                return;
            };
            self.checks.remove(&(check, key));
            match self.records.get_mut(&key) {
                Some(entry) if entry.lives(now) => {
                    entry.check = entry.idle_deadline;
                    self.checks.insert((entry.check, key));
                }
                Some(_) => self.expire(key),
                None => {}
            }
        }
    }

    /// Lets an expired record wait for the sweeper.
    fn expire(&mut self, key: RecordKey) {
        let Some(entry) = self.records.remove(&key) else {
            return;
        };
        subtract_from_principal(&mut self.owned, &entry.record.principal_tag);
        if self.expired.len() >= MAX_EXPIRED
            && let Some((_, oldest)) = self.expired.pop_front()
        {
            self.bytes -= weight(&oldest.record);
        }
        self.expired.push_back((key, entry));
    }

    fn remove(&mut self, key: &RecordKey) -> Option<Entry> {
        let entry = self.records.remove(key)?;
        self.checks.remove(&(entry.check, *key));
        self.bytes -= weight(&entry.record);
        subtract_from_principal(&mut self.owned, &entry.record.principal_tag);
        Some(entry)
    }
}

/// Size of a record in bytes, for the limit.
fn weight(record: &Record) -> usize {
    RECORD_BYTES + record.bytes()
}

/// Subtracts one record of `principal`. A principal without records leaves no entry.
fn subtract_from_principal(owned: &mut HashMap<PrincipalTag, u32>, principal: &PrincipalTag) {
    if let Some(count) = owned.get_mut(principal) {
        *count -= 1;
        if *count == 0 {
            owned.remove(principal);
        }
    }
}

impl Entry {
    fn lives(&self, now: Instant) -> bool {
        now < self.idle_deadline
    }

    fn read(&self, now: Instant) -> Record {
        Record {
            untouched: now.duration_since(self.touched),
            left: self.idle_deadline - now,
            remaining: self.end - now,
            ..self.record.clone()
        }
    }
}

impl SessionStore for MemoryStore {
    fn create<'a>(
        &'a self,
        key: &'a RecordKey,
        record: &'a NewRecord,
        limits: SessionLimits,
    ) -> BoxFuture<'a, Result<CreateOutcome, StoreError>> {
        ready(Ok(self.create_now(*key, record, limits))).boxed()
    }

    fn load<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<LoadOutcome, StoreError>> {
        let found = self.with_live(key, |entry, now| LoadOutcome::Found(entry.read(now)));
        ready(Ok(found.unwrap_or(LoadOutcome::Gone))).boxed()
    }

    fn bind_backend<'a>(
        &'a self,
        key: &'a RecordKey,
        backend: &'a str,
        expected: u64,
        binding: &'a Binding,
    ) -> BoxFuture<'a, Result<BindOutcome, StoreError>> {
        ready(Ok(self.bind_now(key, backend, expected, binding))).boxed()
    }

    fn set<'a>(
        &'a self,
        key: &'a RecordKey,
        setting: &'a SettingChange,
    ) -> BoxFuture<'a, Result<SetOutcome, StoreError>> {
        ready(Ok(self.set_now(key, setting))).boxed()
    }

    fn touch<'a>(&'a self, keys: &'a [RecordKey]) -> BoxFuture<'a, Result<Vec<TouchOutcome>, StoreError>> {
        ready(Ok(keys.iter().map(|key| self.touch_now(key)).collect())).boxed()
    }

    fn claim_stream<'a>(
        &'a self,
        key: &'a RecordKey,
        _: ProcessId,
    ) -> BoxFuture<'a, Result<StreamClaim, StoreError>> {
        ready(Ok(self.claim_stream_now(key))).boxed()
    }

    fn terminate<'a>(
        &'a self,
        key: &'a RecordKey,
        _: SessionLife,
    ) -> BoxFuture<'a, Result<TerminateOutcome, StoreError>> {
        ready(Ok(self.terminate_now(key))).boxed()
    }

    fn recover<'a>(
        &'a self,
        key: &'a RecordKey,
        _: SessionLife,
        _: &'a NewRecord,
    ) -> BoxFuture<'a, Result<RecoverOutcome, StoreError>> {
        ready(Ok(self.recover_now(key))).boxed()
    }

    fn restore<'a>(
        &'a self,
        key: &'a RecordKey,
        _: &'a Record,
        _: RestoreReason,
    ) -> BoxFuture<'a, Result<RecoverOutcome, StoreError>> {
        ready(Ok(self.recover_now(key))).boxed()
    }

    fn claim_expired(
        &self,
        _: Duration,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(RecordKey, Record)>, StoreError>> {
        ready(Ok(self.claim_now(limit))).boxed()
    }

    fn remove_expired<'a>(&'a self, _: &'a [RecordKey]) -> BoxFuture<'a, Result<(), StoreError>> {
        ready(Ok(())).boxed()
    }

    fn incarnation(&self) -> BoxFuture<'_, Result<Incarnation, StoreError>> {
        ready(Ok(self.incarnation)).boxed()
    }

    fn offers(&self) -> BoxFuture<'_, Result<StoredOffers, StoreError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    /// There is no other process that could read it.
    fn keep_offer<'a>(
        &'a self,
        _backend: &'a str,
        _offer: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async { Ok(()) }.boxed()
    }

    /// There is no other process that could share it.
    fn shared_session<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, StoreError>> {
        async { Ok(None) }.boxed()
    }

    fn keep_shared_session<'a>(
        &'a self,
        _backend: &'a str,
        _session: &'a [u8],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async { Ok(()) }.boxed()
    }

    fn claim_id_block<'a>(
        &'a self,
        _: &'a str,
        _: ProcessId,
        block: u32,
        _: bool,
    ) -> BoxFuture<'a, Result<u32, StoreError>> {
        // There is no other process.
        async move { Ok(block) }.boxed()
    }

    fn events(&self, _: Duration) -> Option<BoxStream<'static, StoreEvent>> {
        None
    }

    fn probe_reads(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(Ok(())).boxed()
    }

    fn probe_writes(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(Ok(())).boxed()
    }

    fn provider(&self) -> &'static str {
        "memory"
    }

    fn eviction_warning(&self) -> Option<String> {
        None
    }
}

fn seconds(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::revision::Revision;

    fn record(principal: u8) -> NewRecord {
        NewRecord {
            principal_tag: PrincipalTag([principal; 16]),
            other_tags: Vec::new(),
            revision: Revision::LATEST,
            capabilities: "{}".into(),
            client_info: "{}".into(),
        }
    }

    fn create(store: &MemoryStore, principal: u8) -> Result<RecordKey, SessionLimit> {
        let (key, limits) = (
            RecordKey::random(),
            SessionLimits {
                server: 3,
                principal: 2,
            },
        );
        match store.create_now(key, &record(principal), limits) {
            CreateOutcome::Limit(of) => Err(of),
            CreateOutcome::Created { .. } | CreateOutcome::AlreadyExists => Ok(key),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn session_limits_hold_until_sessions_end() {
        // The limits of the server and of each principal hold, and ended or expired sessions make room.
        let lifetimes = Lifetimes::default();
        let store = MemoryStore::new(lifetimes);
        let first = create(&store, 1).unwrap();
        create(&store, 1).unwrap();
        assert_eq!(create(&store, 1), Err(SessionLimit::Principal));
        create(&store, 2).unwrap();
        assert_eq!(create(&store, 3), Err(SessionLimit::Server));
        // A terminated session makes room for one.
        store.terminate_now(&first);
        create(&store, 1).unwrap();
        assert_eq!(create(&store, 1), Err(SessionLimit::Server));
        // Expired sessions make room as well, even without a search since.
        tokio::time::advance(lifetimes.idle).await;
        for _ in 0..2 {
            create(&store, 1).unwrap();
        }
        assert_eq!(create(&store, 1), Err(SessionLimit::Principal));
        assert_eq!(store.lock().owned.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn record_bytes_are_limited_until_records_end() {
        // All records together have a byte limit, and ended ones make room.
        let store = MemoryStore::new(Lifetimes::default()).within(40 * 1024);
        let limits = SessionLimits {
            server: u32::MAX,
            principal: u32::MAX,
        };
        let heavy = NewRecord {
            client_info: "x".repeat(9 * 1024).into(),
            ..record(1)
        };
        let create = || {
            let key = RecordKey::random();
            let created = store.create_now(key, &heavy, limits);
            matches!(created, CreateOutcome::Created { .. }).then_some(key)
        };
        let keys: Vec<_> = std::iter::from_fn(create).collect();
        assert_eq!(keys.len(), 4);
        let watch = SettingChange::Subscribe {
            uri: "a".repeat(5000),
            backend: "b".to_owned(),
        };
        assert_eq!(store.set_now(&keys[0], &watch), SetOutcome::Full);
        store.terminate_now(&keys[1]);
        assert!(matches!(store.set_now(&keys[0], &watch), SetOutcome::Set(_)));
        assert!(create().is_some() && create().is_none());
        tokio::time::advance(Lifetimes::default().idle).await;
        assert_eq!(store.claim_now(10).len(), 4);
        assert_eq!(store.lock().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn used_records_stay_and_others_expire() {
        let lifetimes = Lifetimes::default();
        let store = MemoryStore::new(lifetimes);
        let limits = SessionLimits {
            server: u32::MAX,
            principal: u32::MAX,
        };
        let create = || {
            let key = RecordKey::random();
            store.create_now(key, &record(1), limits);
            key
        };
        let keys: Vec<_> = (0..100).map(|_| create()).collect();
        tokio::time::advance(lifetimes.idle / 2).await;
        for key in &keys[..40] {
            store.touch_now(key);
        }
        for key in &keys[90..] {
            store.terminate_now(key);
        }
        tokio::time::advance(lifetimes.idle / 2).await;
        assert!(store.claim_now(0).is_empty());
        assert_eq!(store.lock().expired.len(), 50);
        // Each live record, and no other, has one time.
        let checked: Vec<_> = store.lock().checks.iter().map(|(_, key)| *key).collect();
        assert_eq!(checked.len(), 40);
        assert!(keys[..40].iter().all(|key| checked.contains(key)));
        tokio::time::advance(lifetimes.idle / 2).await;
        assert_eq!(store.claim_now(1000).len(), 90);
        let shared = store.lock();
        assert!(shared.records.is_empty() && shared.checks.is_empty() && shared.bytes == 0);
    }

    // Sessions that expire between two claims are removed by creations, a few at a time.
    #[tokio::test(start_paused = true)]
    async fn creation_checks_a_few_records() {
        let lifetimes = Lifetimes::default();
        let store = MemoryStore::new(lifetimes);
        let limits = SessionLimits {
            server: u32::MAX,
            principal: u32::MAX,
        };
        let create = || store.create_now(RecordKey::random(), &record(1), limits);
        (0..100).for_each(|_| drop(create()));
        tokio::time::advance(lifetimes.idle).await;
        drop(create());
        assert_eq!(store.lock().records.len(), 100 - CHECKS_PER_CREATION + 1);
        (0..7).for_each(|_| drop(create()));
        assert_eq!(store.lock().records.len(), 8);
    }
}
