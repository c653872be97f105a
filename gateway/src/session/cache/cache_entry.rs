//! A session as this process remembers it.

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

/// What is remembered of one session. Every request of the session has the same one.
#[derive(Debug)]
pub(in crate::session) struct CacheEntry {
    record: ArcSwap<Record>,
    /// Whether it was looked at since somebody looked for what could be forgotten.
    pub(in crate::session) wanted: AtomicBool,
    /// Whether nothing is known of it but its id.
    is_of_id: bool,
    times: Mutex<Times>,
    /// What backends list to this session alone.
    lists: OnceLock<Arc<SessionLists>>,
    /// For what its record takes, once it is remembered.
    memory: Mutex<Option<Reservation>>,
}

#[derive(Debug)]
struct Times {
    /// The idle deadline was moved then at the latest.
    touched: Instant,
    /// It lives until then without use, as far as is known: others may have used it since.
    until: Instant,
    /// It does not live longer than this.
    end: Instant,
    /// It was used here.
    used: Option<Instant>,
    /// [`ReadStamp::epoch`] of the last time it was read whole.
    epoch: u64,
    /// When the record was last learned.
    learned: Instant,
    /// The record has changed then, and is read once more before it is used: what was asked for before does not count.
    doubted: Option<Instant>,
    /// In which life of the store's data it was seen the last time.
    seen_in: Incarnation,
    /// Its deadline is about to be moved.
    touching: bool,
}

impl CacheEntry {
    /// `record` as the store said at `reading`. `changed` is when a record was last told to have changed that was not remembered: it may
    /// be this one.
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

    /// `record` as the id of the session says, while the store does not. It is read before it is used again.
    pub(in crate::session) fn of_id(record: Record, reading: ReadStamp) -> Self {
        let entry = Self {
            is_of_id: true,
            ..Self::new(record, reading, None)
        };
        entry.invalidate();
        entry
    }

    /// Counts it in `account` as long as there is anybody who has it.
    pub(in crate::session) fn count_in(&self, account: &Account) {
        let counted = account.overdraw(self.record.load().size());
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = Some(counted);
    }

    /// Whether nothing is known of it but its id.
    pub(in crate::session) fn is_of_id(&self) -> bool {
        self.is_of_id
    }

    /// What backends list to this session alone, if they were asked.
    pub(in crate::session) fn lists(&self) -> Option<&Arc<SessionLists>> {
        self.lists.get()
    }

    /// The same, with a place for it where there is none.
    pub(in crate::session) fn make_lists(&self) -> Arc<SessionLists> {
        Arc::clone(self.lists.get_or_init(Arc::default))
    }

    /// The record.
    pub(in crate::session) fn record(&self) -> Guard<Arc<Record>> {
        self.record.load()
    }

    /// Takes over what the store said at `reading`. What is older than what is known is not taken: answers may overtake each other. When
    /// the store was asked behind the moment at which that was learned, its word counts whatever its version is: a store that has lost
    /// what was written last goes back, and everybody goes with it.
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

    /// Whether `record`, which the store had at `reading`, lacks what is known here, although the store was asked afterwards: it has lost
    /// what was written last. Generations only grow in one life of the data, and so do versions.
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

    /// Whether it may be used without asking the store.
    pub(in crate::session) fn is_valid(&self, proof: &Freshness) -> bool {
        let times = self.lock();
        Instant::now() < times.until && proof.is_fresh(times.epoch)
    }

    /// Whether it lives as far as this process can know that cannot ask: its deadline has not passed, or was moved by use here of which
    /// the store does not know yet.
    pub(in crate::session) fn lives_on(&self, idle: Duration) -> bool {
        let (times, now) = (self.lock(), Instant::now());
        let in_use = times.used.is_some_and(|used| now < used + idle);
        now < times.end && (now < times.until || in_use)
    }

    /// In which life of the store's data it was seen the last time.
    pub(in crate::session) fn seen_in(&self) -> Incarnation {
        self.lock().seen_in
    }

    /// In which way it is missing in a store that has no record of it and whose data lives in `incarnation`; `None` when it has ended. A
    /// record whose deadline has not passed as far as is known here may have expired all the same, by the clock of a server that has
    /// taken over. `seen_in` is [`Self::seen_in`] as it was before the store was asked.
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

    /// Whether it was used here less than `idle` ago.
    pub(in crate::session) fn is_used_within(&self, idle: Duration) -> bool {
        let (times, now) = (self.lock(), Instant::now());
        now < times.end && times.used.is_some_and(|used| now < used + idle)
    }

    /// Says that its deadline is about to be moved, unless somebody is at it.
    pub(in crate::session) fn begin_touch(&self) -> bool {
        !std::mem::replace(&mut self.lock().touching, true)
    }

    /// Takes note of use. Says whether the idle deadline should be moved, which is due `every` so often.
    pub(in crate::session) fn used(&self, every: Duration) -> bool {
        let mut times = self.lock();
        let now = Instant::now();
        times.used = Some(now);
        let due = !times.touching && now >= times.touched + every;
        times.touching |= due;
        due
    }

    /// The idle deadline was moved: at `reading` it was `left` away, and the record had this `version`.
    pub(in crate::session) fn touched(&self, version: u64, left: Duration, reading: ReadStamp) {
        let mut times = self.lock();
        times.touching = false;
        times.touched = times.touched.max(reading.at);
        times.until = times.until.max(reading.at + left);
        // Whoever knows the record as it is knows it as of now.
        if version == self.record.load().version {
            times.believe(reading);
        }
    }

    /// The idle deadline could not be moved: the next use tries again.
    pub(in crate::session) fn not_touched(&self) {
        self.lock().touching = false;
    }

    /// What is remembered may not be true any more.
    pub(in crate::session) fn invalidate(&self) {
        let mut times = self.lock();
        times.epoch = 0;
        times.doubted = Some(Instant::now());
    }

    /// Whether it was looked at since this was asked last.
    pub(in crate::session) fn was_wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Times {
    /// The record that is known is as the store has it at `reading`, unless it was told meanwhile that it changed.
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
        // Others used it: its deadline was moved, and reading it says so.
        entry.update(record(1), proof.stamp_now());
        assert!(entry.is_valid(&proof));
        proof.interrupted();
        proof.proved(Instant::now());
        assert!(!entry.is_valid(&proof));
        // The touch says that it is as it is known.
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
        // Asked for the record as it is, it changes, which is told first, and then the answer comes.
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
        // The same of one that nobody remembered when the change was told.
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
        // What is told before everything is known may be older than what is known.
        entry.update(record(3), proof.stamp_of_event());
        assert_eq!(entry.record().version, 9);
        proof.proved(Instant::now());
        entry.update(record(4), proof.stamp_now());
        assert!(entry.is_valid(&proof));
        assert_eq!(entry.record().version, 4);
        // Another history may have come to the same number.
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
        // The store knows it not, although it should live: somebody has ended it, or it has expired by another clock. A record that is
        // still there is brought back, one that was ended is not.
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
