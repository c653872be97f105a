//! One cached session record, with the times that decide whether it is fresh.
//!
//! States of an entry, as in the diagram in `docs/architecture/sessions.md`:
//! - *fresh*: used without a read. [`CacheEntry::is_fresh`] is true in this state only.
//! - *unproven*: the lease has expired ([`super::freshness`]). The next answered PING makes the entry fresh again.
//! - *stale*: read in an earlier epoch, changed elsewhere, or its idle deadline has passed. Only a read makes it fresh.
//!
//! An unproven or stale entry is read once more before it is used. The states *terminated* and *gone* have no entry:
//! the cache holds a tombstone, or nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::time::Instant;

use crate::budget::{Account, Reservation};
use crate::session::cache::freshness::{Freshness, ReadStamp};
use crate::session::cache::session_lists::SessionLists;
use crate::session::record::Record;
use crate::session::store::{Incarnation, RestoreReason};

/// A cached session. All requests of the session share one entry.
#[derive(Debug)]
pub(in crate::session) struct CacheEntry {
    record: ArcSwap<Record>,
    /// Reference bit of the cache's second-chance eviction: set by each lookup.
    pub(in crate::session) referenced: AtomicBool,
    /// Whether the entry was built from the session id alone, during an outage.
    is_from_id: bool,
    times: Mutex<Times>,
    /// Lists that backends give to this session alone.
    lists: OnceLock<Arc<SessionLists>>,
    /// Reservation in the memory budget for the record, while it is cached.
    memory: Mutex<Option<Reservation>>,
}

#[derive(Debug)]
struct Times {
    /// Latest known move of the idle deadline.
    touched_at: Instant,
    /// Idle deadline as far as known. Other replicas may have moved it since.
    idle_deadline: Instant,
    /// Absolute deadline.
    absolute_deadline: Instant,
    /// Last use in this process.
    used_at: Option<Instant>,
    /// Epoch ([`ReadStamp::epoch`]) of the last read that confirmed the record. 0 makes the entry stale.
    epoch: u64,
    /// When the current record was stored here.
    stored_at: Instant,
    /// Time of the last change elsewhere. Reads that began before it do not make the entry fresh.
    invalidated_at: Option<Instant>,
    /// Incarnation of the store's data in which the record was last seen.
    seen_in: Incarnation,
    /// A move of the idle deadline is queued or running.
    touching: bool,
}

impl CacheEntry {
    /// Caches `record`, which was read at `stamp`. `changed` is the time of the last change event for an uncached
    /// key: it may concern this record, so a read that began earlier does not make the entry fresh.
    pub(in crate::session) fn new(record: Record, stamp: ReadStamp, changed: Option<Instant>) -> Self {
        let mut times = Times {
            touched_at: before(stamp.at, record.untouched),
            idle_deadline: stamp.at + record.left,
            absolute_deadline: stamp.at + record.remaining,
            used_at: None,
            epoch: 0,
            stored_at: Instant::now(),
            invalidated_at: changed,
            seen_in: stamp.incarnation.unwrap_or(record.life.incarnation),
            touching: false,
        };
        times.mark_fresh(stamp);
        Self {
            record: ArcSwap::from_pointee(record),
            referenced: AtomicBool::new(true),
            is_from_id: false,
            times: Mutex::new(times),
            memory: Mutex::default(),
            lists: OnceLock::new(),
        }
    }

    /// Builds an entry from the session's id while the store does not answer. The entry starts stale.
    pub(in crate::session) fn from_id(record: Record, stamp: ReadStamp) -> Self {
        let entry = Self {
            is_from_id: true,
            ..Self::new(record, stamp, None)
        };
        entry.invalidate();
        entry
    }

    /// Reserves the record's size in `account` for as long as the entry exists.
    pub(in crate::session) fn reserve_memory(&self, account: &Account) {
        let counted = account.overdraw(self.record.load().size());
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = Some(counted);
    }

    /// Whether the entry was built from the session id alone.
    pub(in crate::session) fn is_from_id(&self) -> bool {
        self.is_from_id
    }

    /// Lists that backends give to this session alone, if they were loaded.
    pub(in crate::session) fn lists(&self) -> Option<&Arc<SessionLists>> {
        self.lists.get()
    }

    /// Returns those lists, and creates them empty if there are none.
    pub(in crate::session) fn make_lists(&self) -> Arc<SessionLists> {
        Arc::clone(self.lists.get_or_init(Arc::default))
    }

    /// The cached record.
    pub(in crate::session) fn record(&self) -> Guard<Arc<Record>> {
        self.record.load()
    }

    /// Applies `record`, which was read at `stamp`. Responses may overtake each other, so an older version is
    /// ignored, unless the read began after the current record was stored here. Such a read always counts: after a
    /// failover the store may have gone back to an older version, and all replicas follow it.
    pub(in crate::session) fn update(&self, record: Record, stamp: ReadStamp) {
        let mut times = self.lock();
        times.touched_at = times.touched_at.max(before(stamp.at, record.untouched));
        times.idle_deadline = times.idle_deadline.max(stamp.at + record.left);
        times.seen_in = stamp.incarnation.unwrap_or(times.seen_in);
        let known = self.record.load().version;
        if record.version >= known {
            times.mark_fresh(stamp);
        }
        if record.version > known || stamp.after > Some(times.stored_at) {
            times.mark_fresh(stamp);
            times.stored_at = Instant::now();
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(counted) = &mut *memory {
                counted.overdraw(record.size());
            }
            self.record.store(Arc::new(record));
        }
    }

    /// Whether the store has lost a write: `record` lacks what this entry has, although the read began later. Within
    /// one incarnation, versions and generations only grow.
    pub(in crate::session) fn is_ahead_of(&self, record: &Record, stamp: ReadStamp) -> bool {
        let (times, known) = (self.lock(), self.record.load());
        let is_later = stamp.after > Some(times.stored_at);
        let same_life = stamp.incarnation == Some(times.seen_in) && record.life == known.life;
        let lacks_binding = || {
            let mut bindings = known.bindings.iter();
            bindings.any(|(backend, binding)| record.generation(backend) < binding.generation)
        };
        is_later && same_life && (record.version < known.version || lacks_binding())
    }

    /// Whether the entry is in the state fresh: it may be used without a read.
    pub(in crate::session) fn is_fresh(&self, freshness: &Freshness) -> bool {
        let times = self.lock();
        Instant::now() < times.idle_deadline && freshness.is_fresh(times.epoch)
    }

    /// Whether the session is alive as far as this process knows while it cannot ask: its deadline has not passed, or
    /// use in this process extends it and the store has not been updated yet.
    pub(in crate::session) fn is_alive(&self, idle: Duration) -> bool {
        let (times, now) = (self.lock(), Instant::now());
        let in_use = times.used_at.is_some_and(|used| now < used + idle);
        now < times.absolute_deadline && (now < times.idle_deadline || in_use)
    }

    /// Incarnation of the store's data in which the record was last seen.
    pub(in crate::session) fn seen_in(&self) -> Incarnation {
        self.lock().seen_in
    }

    /// Decides why the store, whose data has this `incarnation`, has no record of this session; `None` if the session
    /// has ended. The deadline known here may not have passed while the clock of a promoted server says it has. Pass
    /// in `seen_in` the value of [`Self::seen_in`] from before the store was asked.
    pub(in crate::session) fn restore_reason(
        &self,
        seen_in: Incarnation,
        incarnation: Incarnation,
        idle: Duration,
    ) -> Option<RestoreReason> {
        let (times, now) = (self.lock(), Instant::now());
        if now >= times.absolute_deadline {
            None
        } else if seen_in != incarnation {
            Some(RestoreReason::Lost)
        } else {
            let in_use = times.used_at.is_some_and(|used| now < used + idle);
            (now < times.idle_deadline || in_use).then_some(RestoreReason::Expired)
        }
    }

    /// Whether the session was used in this process within the last `idle`.
    pub(in crate::session) fn was_used_within(&self, idle: Duration) -> bool {
        let (times, now) = (self.lock(), Instant::now());
        now < times.absolute_deadline && times.used_at.is_some_and(|used| now < used + idle)
    }

    /// Marks a move of the idle deadline as queued. Returns `false` if one is queued or running already.
    pub(in crate::session) fn begin_touch(&self) -> bool {
        !std::mem::replace(&mut self.lock().touching, true)
    }

    /// Records a use. Returns whether the idle deadline is to be moved, which happens once per `every`.
    pub(in crate::session) fn record_use(&self, every: Duration) -> bool {
        let mut times = self.lock();
        let now = Instant::now();
        times.used_at = Some(now);
        let due = !times.touching && now >= times.touched_at + every;
        times.touching |= due;
        due
    }

    /// Records a moved idle deadline: at `stamp` the store had `version` and `left` to the deadline.
    pub(in crate::session) fn record_touch(&self, version: u64, left: Duration, stamp: ReadStamp) {
        let mut times = self.lock();
        times.touching = false;
        times.touched_at = times.touched_at.max(stamp.at);
        times.idle_deadline = times.idle_deadline.max(stamp.at + left);
        // The version is the cached one, so the cached record is current.
        if version == self.record.load().version {
            times.mark_fresh(stamp);
        }
    }

    /// Records that the move of the idle deadline failed. The next use tries again.
    pub(in crate::session) fn record_failed_touch(&self) {
        self.lock().touching = false;
    }

    /// Makes the entry stale: it is read again before it is used.
    pub(in crate::session) fn invalidate(&self) {
        let mut times = self.lock();
        times.epoch = 0;
        times.invalidated_at = Some(Instant::now());
    }

    /// Returns the reference bit and clears it.
    pub(in crate::session) fn take_referenced(&self) -> bool {
        self.referenced.swap(false, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Times {
    /// Makes the entry fresh as of `stamp`, unless a change was reported after the read began.
    fn mark_fresh(&mut self, stamp: ReadStamp) {
        if self
            .invalidated_at
            .is_none_or(|invalidated_at| stamp.after > Some(invalidated_at))
        {
            self.epoch = self.epoch.max(stamp.epoch);
        }
    }
}

fn before(at: Instant, ago: Duration) -> Instant {
    at.checked_sub(ago).unwrap_or(at)
}

#[cfg(test)]
pub(in crate::session) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::backend::UpstreamSession;
    use crate::mcp::revision::Revision;
    use crate::session::record::bindings::Bindings;
    use crate::session::record::{Binding, PrincipalTag, SessionLife};

    pub(in crate::session) const IDLE: Duration = Duration::from_secs(60);
    const EVERY: Duration = Duration::from_secs(30);
    pub(in crate::session) const FIRST: Incarnation = Incarnation([1; 8]);
    const MOMENT: Duration = Duration::from_millis(1);
    const SECOND: Incarnation = Incarnation([2; 8]);

    pub(in crate::session) fn record(version: u64) -> Record {
        Record {
            principal_tag: PrincipalTag([1; 16]),
            revision: Revision::V2025_11_25,
            capabilities: "{}".into(),
            client_info: "{}".into(),
            life: SessionLife {
                incarnation: FIRST,
                end: 2_000_000_000,
            },
            version,
            untouched: Duration::ZERO,
            left: IDLE,
            remaining: IDLE * 10,
            log_level: None,
            subscriptions: BTreeMap::new(),
            bindings: Bindings::default(),
        }
    }

    pub(in crate::session) fn stamp(epoch: u64) -> ReadStamp {
        ReadStamp {
            at: Instant::now(),
            after: Some(Instant::now()),
            epoch,
            incarnation: Some(FIRST),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn entry_is_fresh_until_deadline_change_or_interruption() {
        // An entry is fresh until its idle deadline passes, the record changes elsewhere, or the subscription is interrupted.
        let freshness = Freshness::new(IDLE * 10);
        freshness.renew(Instant::now());
        let entry = CacheEntry::new(record(1), freshness.stamp_now(), None);
        assert!(entry.is_fresh(&freshness));
        entry.invalidate();
        assert!(!entry.is_fresh(&freshness));
        tokio::time::advance(MOMENT).await;
        entry.update(record(1), freshness.stamp_now());
        assert!(entry.is_fresh(&freshness));
        tokio::time::advance(IDLE - MOMENT).await;
        assert!(entry.is_fresh(&freshness));
        tokio::time::advance(MOMENT).await;
        assert!(!entry.is_fresh(&freshness), "it may have expired");
        // Another replica moved the deadline; the read reports that.
        entry.update(record(1), freshness.stamp_now());
        assert!(entry.is_fresh(&freshness));
        freshness.interrupted();
        freshness.renew(Instant::now());
        assert!(!entry.is_fresh(&freshness));
        // The touch reports the cached version.
        entry.record_touch(1, IDLE, freshness.stamp_now());
        assert!(entry.is_fresh(&freshness));
        freshness.interrupted();
        freshness.renew(Instant::now());
        entry.record_touch(2, IDLE, freshness.stamp_now());
        assert!(
            !entry.is_fresh(&freshness),
            "another replica changed it meanwhile"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn overtaken_response_leaves_the_entry_unchanged() {
        // An older version whose read began before the current record was stored is ignored.
        let asked = stamp(1);
        tokio::time::advance(MOMENT).await;
        let entry = CacheEntry::new(record(5), stamp(1), None);
        let older = Record {
            log_level: Some("debug".to_owned()),
            ..record(4)
        };
        entry.update(older, asked);
        assert_eq!((entry.record().version, &entry.record().log_level), (5, &None));
        entry.update(record(6), stamp(1));
        assert_eq!(entry.record().version, 6);
    }

    #[tokio::test(start_paused = true)]
    async fn read_begun_before_a_change_does_not_make_fresh() {
        // A read or touch that began before a change event leaves the entry stale.
        let freshness = Freshness::new(IDLE);
        freshness.renew(Instant::now());
        let entry = CacheEntry::new(record(5), freshness.stamp_now(), None);
        // The load starts, the record changes, the event arrives, and then the load's response.
        let asked = freshness.stamp_now();
        tokio::time::advance(MOMENT).await;
        entry.invalidate();
        entry.update(record(5), asked);
        assert!(!entry.is_fresh(&freshness));
        entry.record_touch(5, IDLE, asked);
        assert!(!entry.is_fresh(&freshness));
        tokio::time::advance(MOMENT).await;
        entry.update(record(6), freshness.stamp_now());
        assert!(entry.is_fresh(&freshness));
        // The same for a record that was not cached when the event arrived.
        let entry = CacheEntry::new(record(5), asked, Some(Instant::now()));
        assert!(!entry.is_fresh(&freshness));
        tokio::time::advance(MOMENT).await;
        entry.update(record(5), freshness.stamp_now());
        assert!(entry.is_fresh(&freshness));
    }

    #[tokio::test(start_paused = true)]
    async fn entry_follows_a_store_that_lost_its_last_writes() {
        // After a failover that lost writes, a later read counts even with an older version.
        let freshness = Freshness::new(IDLE);
        freshness.renew(Instant::now());
        let entry = CacheEntry::new(record(9), freshness.stamp_now(), None);
        tokio::time::advance(MOMENT).await;
        freshness.interrupted();
        // Before the first PING, an event may be older than the cached record.
        entry.update(record(3), freshness.stamp_of_event());
        assert_eq!(entry.record().version, 9);
        freshness.renew(Instant::now());
        entry.update(record(4), freshness.stamp_now());
        assert!(entry.is_fresh(&freshness));
        assert_eq!(entry.record().version, 4);
        // After a failover the same version can name another record.
        tokio::time::advance(MOMENT).await;
        let another = Record {
            log_level: Some("debug".to_owned()),
            ..record(4)
        };
        entry.update(another.clone(), freshness.stamp_now());
        assert_eq!(**entry.record(), another);
    }

    #[tokio::test(start_paused = true)]
    async fn later_read_with_older_state_shows_lost_writes() {
        // If a later read of the same incarnation lacks a version or binding, the store has lost writes.
        let with_binding = |version, generation| {
            let mut record = record(version);
            let binding = Binding {
                origin: "origin".into(),
                session: UpstreamSession {
                    id: None,
                    revision: Revision::V2025_11_25,
                    address: None,
                    cookies: crate::backend::Cookies::default(),
                },
                generation,
            };
            record.bindings.insert("x", binding);
            record
        };
        let before = stamp(1);
        tokio::time::advance(MOMENT).await;
        let entry = CacheEntry::new(with_binding(5, 2), stamp(1), None);
        assert!(
            !entry.is_ahead_of(&record(4), before),
            "that answer was overtaken"
        );
        tokio::time::advance(MOMENT).await;
        assert!(entry.is_ahead_of(&record(4), stamp(1)));
        assert!(entry.is_ahead_of(&with_binding(4, 2), stamp(1)));
        assert!(
            entry.is_ahead_of(&with_binding(7, 1), stamp(1)),
            "another history"
        );
        assert!(!entry.is_ahead_of(&with_binding(5, 2), stamp(1)));
        assert!(!entry.is_ahead_of(&with_binding(6, 3), stamp(1)));
        let in_a_new_life = ReadStamp {
            incarnation: Some(SECOND),
            ..stamp(1)
        };
        assert!(!entry.is_ahead_of(&record(4), in_a_new_life));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_deadline_moves_once_per_interval() {
        // Concurrent uses request one move of the idle deadline per interval.
        let entry = CacheEntry::new(record(1), stamp(1), None);
        assert!(!entry.record_use(EVERY), "it was moved just now");
        tokio::time::advance(EVERY).await;
        assert!(entry.record_use(EVERY));
        assert!(!entry.record_use(EVERY), "a move is under way");
        entry.record_failed_touch();
        assert!(entry.record_use(EVERY));
        entry.record_touch(1, IDLE, stamp(1));
        assert!(!entry.record_use(EVERY));
    }

    #[tokio::test(start_paused = true)]
    async fn missing_record_is_lost_expired_or_ended() {
        // A missing record was lost in another incarnation, expired while in use, or its session has ended.
        let entry = CacheEntry::new(record(1), stamp(1), None);
        // The store has no record, but the deadline has not passed: the session was terminated, or it expired by
        // another clock. `restore` brings back an expired record and leaves a terminated one.
        assert_eq!(
            entry.restore_reason(FIRST, FIRST, IDLE),
            Some(RestoreReason::Expired)
        );
        assert_eq!(
            entry.restore_reason(FIRST, SECOND, IDLE),
            Some(RestoreReason::Lost)
        );
        tokio::time::advance(IDLE - Duration::from_secs(1)).await;
        entry.record_use(EVERY);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(
            entry.is_alive(IDLE),
            "it was used, and the store is not updated yet"
        );
        assert_eq!(
            entry.restore_reason(FIRST, FIRST, IDLE),
            Some(RestoreReason::Expired)
        );
        tokio::time::advance(IDLE).await;
        assert!(!entry.is_alive(IDLE));
        assert_eq!(entry.restore_reason(FIRST, FIRST, IDLE), None);
        tokio::time::advance(IDLE * 10).await;
        assert_eq!(
            entry.restore_reason(FIRST, SECOND, IDLE),
            None,
            "nothing outlives its end"
        );
    }
}
