//! One cached session record, with the times that decide whether it is fresh.
//!
//! States of the entry: fresh, unproven, stale, as in `docs/architecture/sessions.md`.
//! [`Self::is_fresh`](CacheEntry::is_fresh) is true in the first state only; an entry in any other state is read once
//! more before it is used.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::time::Instant;

use crate::budget::{Account, Reservation};
use crate::session::cache::freshness::{Freshness, ReadStamp};
use crate::session::record::Record;
use crate::session::store::{Incarnation, RestoreReason};
use crate::session::upstream::session_lists::SessionLists;

/// A cached session. All requests of the session share one entry.
#[derive(Debug)]
pub(in crate::session) struct CacheEntry {
    record: ArcSwap<Record>,
    /// Reference bit of the cache's second-chance eviction: set by each lookup.
    pub(in crate::session) wanted: AtomicBool,
    /// Whether the entry was built from the session id alone, during an outage.
    is_of_id: bool,
    times: Mutex<Times>,
    /// Lists that backends give to this session alone.
    lists: OnceLock<Arc<SessionLists>>,
    /// Reservation in the memory budget for the record, while it is cached.
    memory: Mutex<Option<Reservation>>,
}

#[derive(Debug)]
struct Times {
    /// Latest known move of the idle deadline.
    touched: Instant,
    /// Idle deadline as far as known. Other replicas may have moved it since.
    until: Instant,
    /// Absolute deadline.
    end: Instant,
    /// Last use in this process.
    used: Option<Instant>,
    /// Epoch ([`ReadStamp::epoch`]) of the last read that confirmed the record. 0 makes the entry stale.
    epoch: u64,
    /// When the current record was stored here.
    learned: Instant,
    /// Time of the last change elsewhere. Reads that began before it do not make the entry fresh.
    doubted: Option<Instant>,
    /// Incarnation of the store's data in which the record was last seen.
    seen_in: Incarnation,
    /// A move of the idle deadline is queued or running.
    touching: bool,
}

impl CacheEntry {
    /// Caches `record`, which was read at `reading`. `changed` is the time of the last change event for an uncached
    /// key: it may concern this record, so a read that began earlier does not make the entry fresh.
    pub(in crate::session) fn new(record: Record, reading: ReadStamp, changed: Option<Instant>) -> Self {
        let mut times = Times {
            touched: before(reading.at, record.untouched),
            until: reading.at + record.left,
            end: reading.at + record.remaining,
            used: None,
            epoch: 0,
            learned: Instant::now(),
            doubted: changed,
            seen_in: reading.incarnation.unwrap_or(record.life.incarnation),
            touching: false,
        };
        times.believe(reading);
        Self {
            record: ArcSwap::from_pointee(record),
            wanted: AtomicBool::new(true),
            is_of_id: false,
            times: Mutex::new(times),
            memory: Mutex::default(),
            lists: OnceLock::new(),
        }
    }

    /// Builds an entry from the session's id while the store does not answer. The entry starts stale.
    pub(in crate::session) fn of_id(record: Record, reading: ReadStamp) -> Self {
        let entry = Self {
            is_of_id: true,
            ..Self::new(record, reading, None)
        };
        entry.invalidate();
        entry
    }

    /// Reserves the record's size in `account` for as long as the entry exists.
    pub(in crate::session) fn count_in(&self, account: &Account) {
        let counted = account.overdraw(self.record.load().size());
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = Some(counted);
    }

    /// Whether the entry was built from the session id alone.
    pub(in crate::session) fn is_of_id(&self) -> bool {
        self.is_of_id
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

    /// Applies `record`, which was read at `reading`. Responses may overtake each other, so an older version is
    /// ignored, unless the read began after the current record was stored here. Such a read always counts: after a
    /// failover the store may have gone back to an older version, and all replicas follow it.
    pub(in crate::session) fn update(&self, record: Record, reading: ReadStamp) {
        let mut times = self.lock();
        times.touched = times.touched.max(before(reading.at, record.untouched));
        times.until = times.until.max(reading.at + record.left);
        times.seen_in = reading.incarnation.unwrap_or(times.seen_in);
        let known = self.record.load().version;
        if record.version >= known {
            times.believe(reading);
        }
        if record.version > known || reading.after > Some(times.learned) {
            times.believe(reading);
            times.learned = Instant::now();
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(counted) = &mut *memory {
                counted.overdraw(record.size());
            }
            self.record.store(Arc::new(record));
        }
    }

    /// Whether the store has lost a write: `record` lacks what this entry has, although the read began later. Within
    /// one incarnation, versions and generations only grow.
    pub(in crate::session) fn knows_more_than(&self, record: &Record, reading: ReadStamp) -> bool {
        let (times, known) = (self.lock(), self.record.load());
        let is_later = reading.after > Some(times.learned);
        let same_life = reading.incarnation == Some(times.seen_in) && record.life == known.life;
        let lacks_binding = || {
            let mut bindings = known.bindings.iter();
            bindings.any(|(backend, binding)| record.generation(backend) < binding.generation)
        };
        is_later && same_life && (record.version < known.version || lacks_binding())
    }

    /// Whether the entry is in the state fresh: it may be used without a read.
    pub(in crate::session) fn is_valid(&self, proof: &Freshness) -> bool {
        let times = self.lock();
        Instant::now() < times.until && proof.is_fresh(times.epoch)
    }

    /// Whether the session is alive as far as this process knows while it cannot ask: its deadline has not passed, or
    /// use in this process extends it and the store has not been updated yet.
    pub(in crate::session) fn lives_on(&self, idle: Duration) -> bool {
        let (times, now) = (self.lock(), Instant::now());
        let in_use = times.used.is_some_and(|used| now < used + idle);
        now < times.end && (now < times.until || in_use)
    }

    /// Incarnation of the store's data in which the record was last seen.
    pub(in crate::session) fn seen_in(&self) -> Incarnation {
        self.lock().seen_in
    }

    /// Decides why the store, whose data has this `incarnation`, has no record of this session; `None` if the session
    /// has ended. The deadline known here may not have passed while the clock of a promoted server says it has. Pass
    /// in `seen_in` the value of [`Self::seen_in`] from before the store was asked.
    pub(in crate::session) fn missing(
        &self,
        seen_in: Incarnation,
        incarnation: Incarnation,
        idle: Duration,
    ) -> Option<RestoreReason> {
        let (times, now) = (self.lock(), Instant::now());
        if now >= times.end {
            None
        } else if seen_in != incarnation {
            Some(RestoreReason::Lost)
        } else {
            let in_use = times.used.is_some_and(|used| now < used + idle);
            (now < times.until || in_use).then_some(RestoreReason::Expired)
        }
    }

    /// Whether the session was used in this process within the last `idle`.
    pub(in crate::session) fn is_used_within(&self, idle: Duration) -> bool {
        let (times, now) = (self.lock(), Instant::now());
        now < times.end && times.used.is_some_and(|used| now < used + idle)
    }

    /// Marks a move of the idle deadline as queued. Returns `false` if one is queued or running already.
    pub(in crate::session) fn begin_touch(&self) -> bool {
        !std::mem::replace(&mut self.lock().touching, true)
    }

    /// Records a use. Returns whether the idle deadline is to be moved, which happens once per `every`.
    pub(in crate::session) fn used(&self, every: Duration) -> bool {
        let mut times = self.lock();
        let now = Instant::now();
        times.used = Some(now);
        let due = !times.touching && now >= times.touched + every;
        times.touching |= due;
        due
    }

    /// Records a moved idle deadline: at `reading` the store had `version` and `left` to the deadline.
    pub(in crate::session) fn touched(&self, version: u64, left: Duration, reading: ReadStamp) {
        let mut times = self.lock();
        times.touching = false;
        times.touched = times.touched.max(reading.at);
        times.until = times.until.max(reading.at + left);
        // The version is the cached one, so the cached record is current.
        if version == self.record.load().version {
            times.believe(reading);
        }
    }

    /// Records that the move of the idle deadline failed. The next use tries again.
    pub(in crate::session) fn not_touched(&self) {
        self.lock().touching = false;
    }

    /// Makes the entry stale.
    pub(in crate::session) fn invalidate(&self) {
        let mut times = self.lock();
        times.epoch = 0;
        times.doubted = Some(Instant::now());
    }

    /// Returns the reference bit and clears it.
    pub(in crate::session) fn was_wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Times {
    /// Makes the entry fresh as of `reading`, unless a change was reported after the read began.
    fn believe(&mut self, reading: ReadStamp) {
        if self.doubted.is_none_or(|doubted| reading.after > Some(doubted)) {
            self.epoch = self.epoch.max(reading.epoch);
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
    use crate::session::record::{Binding, PrincipalTag};
    use crate::session::store::SessionLife;
    use crate::session::upstream::bindings::Bindings;

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

    pub(in crate::session) fn reading(epoch: u64) -> ReadStamp {
        ReadStamp {
            at: Instant::now(),
            after: Some(Instant::now()),
            epoch,
            incarnation: Some(FIRST),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_valid_as_long_as_its_record_must_live_and_nothing_was_missed() {
        let proof = Freshness::new(IDLE * 10);
        proof.proved(Instant::now());
        let entry = CacheEntry::new(record(1), proof.stamp_now(), None);
        assert!(entry.is_valid(&proof));
        entry.invalidate();
        assert!(!entry.is_valid(&proof));
        tokio::time::advance(MOMENT).await;
        entry.update(record(1), proof.stamp_now());
        assert!(entry.is_valid(&proof));
        tokio::time::advance(IDLE - MOMENT).await;
        assert!(entry.is_valid(&proof));
        tokio::time::advance(MOMENT).await;
        assert!(!entry.is_valid(&proof), "it may have expired");
        // Another replica moved the deadline; the read reports that.
        entry.update(record(1), proof.stamp_now());
        assert!(entry.is_valid(&proof));
        proof.interrupted();
        proof.proved(Instant::now());
        assert!(!entry.is_valid(&proof));
        // The touch reports the cached version.
        entry.touched(1, IDLE, proof.stamp_now());
        assert!(entry.is_valid(&proof));
        proof.interrupted();
        proof.proved(Instant::now());
        entry.touched(2, IDLE, proof.stamp_now());
        assert!(!entry.is_valid(&proof), "somebody changed it meanwhile");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_overtaken_changes_nothing() {
        let asked = reading(1);
        tokio::time::advance(MOMENT).await;
        let entry = CacheEntry::new(record(5), reading(1), None);
        let older = Record {
            log_level: Some("debug".to_owned()),
            ..record(4)
        };
        entry.update(older, asked);
        assert_eq!((entry.record().version, &entry.record().log_level), (5, &None));
        entry.update(record(6), reading(1));
        assert_eq!(entry.record().version, 6);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_asked_for_before_a_change_was_told_proves_nothing() {
        let proof = Freshness::new(IDLE);
        proof.proved(Instant::now());
        let entry = CacheEntry::new(record(5), proof.stamp_now(), None);
        // The load starts, the record changes, the event arrives, and then the load's response.
        let asked = proof.stamp_now();
        tokio::time::advance(MOMENT).await;
        entry.invalidate();
        entry.update(record(5), asked);
        assert!(!entry.is_valid(&proof));
        entry.touched(5, IDLE, asked);
        assert!(!entry.is_valid(&proof));
        tokio::time::advance(MOMENT).await;
        entry.update(record(6), proof.stamp_now());
        assert!(entry.is_valid(&proof));
        // The same for a record that was not cached when the event arrived.
        let entry = CacheEntry::new(record(5), asked, Some(Instant::now()));
        assert!(!entry.is_valid(&proof));
        tokio::time::advance(MOMENT).await;
        entry.update(record(5), proof.stamp_now());
        assert!(entry.is_valid(&proof));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_has_lost_what_was_written_last_is_followed_back() {
        let proof = Freshness::new(IDLE);
        proof.proved(Instant::now());
        let entry = CacheEntry::new(record(9), proof.stamp_now(), None);
        tokio::time::advance(MOMENT).await;
        proof.interrupted();
        // Before the first PING, an event may be older than the cached record.
        entry.update(record(3), proof.stamp_of_event());
        assert_eq!(entry.record().version, 9);
        proof.proved(Instant::now());
        entry.update(record(4), proof.stamp_now());
        assert!(entry.is_valid(&proof));
        assert_eq!(entry.record().version, 4);
        // After a failover the same version can name another record.
        tokio::time::advance(MOMENT).await;
        let another = Record {
            log_level: Some("debug".to_owned()),
            ..record(4)
        };
        entry.update(another.clone(), proof.stamp_now());
        assert_eq!(**entry.record(), another);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_store_lacks_that_was_asked_later_it_has_lost() {
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
        let before = reading(1);
        tokio::time::advance(MOMENT).await;
        let entry = CacheEntry::new(with_binding(5, 2), reading(1), None);
        assert!(
            !entry.knows_more_than(&record(4), before),
            "that answer was overtaken"
        );
        tokio::time::advance(MOMENT).await;
        assert!(entry.knows_more_than(&record(4), reading(1)));
        assert!(entry.knows_more_than(&with_binding(4, 2), reading(1)));
        assert!(
            entry.knows_more_than(&with_binding(7, 1), reading(1)),
            "another history"
        );
        assert!(!entry.knows_more_than(&with_binding(5, 2), reading(1)));
        assert!(!entry.knows_more_than(&with_binding(6, 3), reading(1)));
        let in_a_new_life = ReadStamp {
            incarnation: Some(SECOND),
            ..reading(1)
        };
        assert!(!entry.knows_more_than(&record(4), in_a_new_life));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_moved_only_so_often_and_by_one_at_a_time() {
        let entry = CacheEntry::new(record(1), reading(1), None);
        assert!(!entry.used(EVERY), "it was moved just now");
        tokio::time::advance(EVERY).await;
        assert!(entry.used(EVERY));
        assert!(!entry.used(EVERY), "somebody is at it");
        entry.not_touched();
        assert!(entry.used(EVERY));
        entry.touched(1, IDLE, reading(1));
        assert!(!entry.used(EVERY));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_was_lost_or_expired_in_use_or_has_ended() {
        let entry = CacheEntry::new(record(1), reading(1), None);
        // The store has no record, but the deadline has not passed: the session was terminated, or it expired by
        // another clock. `restore` brings back an expired record and leaves a terminated one.
        assert_eq!(entry.missing(FIRST, FIRST, IDLE), Some(RestoreReason::Expired));
        assert_eq!(entry.missing(FIRST, SECOND, IDLE), Some(RestoreReason::Lost));
        tokio::time::advance(IDLE - Duration::from_secs(1)).await;
        entry.used(EVERY);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(entry.lives_on(IDLE), "it was used, and the store was not told");
        assert_eq!(entry.missing(FIRST, FIRST, IDLE), Some(RestoreReason::Expired));
        tokio::time::advance(IDLE).await;
        assert!(!entry.lives_on(IDLE));
        assert_eq!(entry.missing(FIRST, FIRST, IDLE), None);
        tokio::time::advance(IDLE * 10).await;
        assert_eq!(
            entry.missing(FIRST, SECOND, IDLE),
            None,
            "nothing outlives its end"
        );
    }
}
