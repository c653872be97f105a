//! Since when the store does not answer.
//!
//! Each kind of operation counts for itself, because a store can answer some and refuse others: a Redis whose memory is full reads
//! and refuses to write; one whose user lacks a permission may do neither, and answers PING all the same. A kind fails from its first
//! failure to its next success, or, where the store was late and did not refuse, to any success; and the outage lasts while one does. The
//! session layer probes the store while it lasts, with scripts
//! that use every command that the others use, so that its end is noticed also when nobody calls, and not before it has come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::session::store::StoreError;

/// Reads have to fail for so long, without a success, before the store is known to be out: one late answer is no outage.
const CONFIRMED_AFTER: Duration = Duration::from_secs(1);
/// The beginning of an outage is logged at most so often.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// How many kinds of operations there are.
const OPERATIONS: usize = 13;

/// The kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum StoreOperation {
    Load,
    Incarnation,
    Create,
    Bind,
    Set,
    Touch,
    ClaimStream,
    Terminate,
    Recover,
    Restore,
    /// What backends offer.
    Offers,
    ProbeReads,
    ProbeWrites,
}

impl StoreOperation {
    /// Whether it only reads: what else is known of sessions is worth nothing while these fail.
    fn reads(self) -> bool {
        matches!(self, Self::Load | Self::Incarnation | Self::ProbeReads)
    }

    /// Whether a session that is in use looks expired while these fail.
    fn keeps_alive(self) -> bool {
        self.reads() || matches!(self, Self::Touch | Self::Restore)
    }

    /// Whether a success of `self` shows that `other` would succeed.
    fn proves(self, other: Self) -> bool {
        match self {
            Self::ProbeReads => other.reads(),
            Self::ProbeWrites => !other.reads(),
            _ => self == other,
        }
    }

    const ALL: [Self; OPERATIONS] = [
        Self::Load,
        Self::Incarnation,
        Self::Create,
        Self::Bind,
        Self::Set,
        Self::Touch,
        Self::ClaimStream,
        Self::Terminate,
        Self::Recover,
        Self::Restore,
        Self::Offers,
        Self::ProbeReads,
        Self::ProbeWrites,
    ];
}

/// The state of the store as this process sees it.
#[derive(Debug, Default)]
pub(in crate::session) struct Outage {
    /// Whether [`Self::down`] holds something, for those who only ask that.
    is_down: AtomicBool,
    down: ArcSwapOption<StoreFailure>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The kinds that fail.
    failing: [Option<FailingOperation>; OPERATIONS],
    /// When an operation failed last without which sessions in use look expired.
    not_kept_alive: Option<Instant>,
    /// When the beginning of an outage was logged last, and whether that of the one that lasts was.
    logged: Option<Instant>,
    is_logged: bool,
}

/// Operations of one kind fail.
#[derive(Clone, Copy, Debug)]
struct FailingOperation {
    since: Instant,
    /// Whether the store answered the last one, and refused.
    is_refused: bool,
}

/// Some operations fail.
#[derive(Clone, Debug)]
pub(in crate::session) struct StoreFailure {
    /// Since when, without a success of the same kind.
    pub(in crate::session) since: Instant,
    /// Since when reads fail, if they do.
    pub(in crate::session) reads: Option<Instant>,
    /// Whether the store refuses some.
    refuses: bool,
    /// What was wrong the last time.
    pub(in crate::session) error: StoreError,
}

/// What is to be said of an outage, because it is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum OutageChange {
    /// Nothing.
    None,
    /// It has begun, or ended. `log` says whether that should be logged: one that comes and goes is not logged each time.
    Turned { log: bool },
}

impl Outage {
    /// An operation had no answer, or was refused.
    pub(in crate::session) fn failed(&self, operation: StoreOperation, error: &StoreError) -> OutageChange {
        let now = Instant::now();
        let mut state = self.lock();
        let since = state.failing[operation as usize].map_or(now, |failing| failing.since);
        state.failing[operation as usize] = Some(FailingOperation {
            since,
            is_refused: error.is_refusal(),
        });
        if operation.keeps_alive() {
            state.not_kept_alive = Some(now);
        }
        let began = self.down.load().is_none();
        self.publish(&state, Some(error));
        if !began {
            return OutageChange::None;
        }
        state.is_logged = state.logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY);
        if state.is_logged {
            state.logged = Some(now);
        }
        OutageChange::Turned { log: state.is_logged }
    }

    /// An operation had an answer.
    pub(in crate::session) fn answered(&self, operation: StoreOperation) -> OutageChange {
        if !self.is_down() {
            return OutageChange::None;
        }
        let mut state = self.lock();
        for other in StoreOperation::ALL {
            let was_late = state.failing[other as usize].is_some_and(|failing| !failing.is_refused);
            if was_late || operation.proves(other) {
                state.failing[other as usize] = None;
            }
        }
        let lasted = self.down.load().is_some();
        self.publish(&state, None);
        if !lasted || self.is_down() {
            return OutageChange::None;
        }
        OutageChange::Turned { log: state.is_logged }
    }

    fn publish(&self, state: &State, error: Option<&StoreError>) {
        let earliest = |counts: fn(StoreOperation) -> bool| {
            let kinds = StoreOperation::ALL.into_iter().filter(|kind| counts(*kind));
            let failing = kinds.filter_map(|kind| state.failing[kind as usize]);
            failing.map(|failing| failing.since).min()
        };
        let known = self.down.load();
        let error = error.or_else(|| known.as_ref().map(|down| &down.error));
        let down = earliest(|_| true).zip(error).map(|(since, error)| StoreFailure {
            since,
            reads: earliest(StoreOperation::reads),
            refuses: state.failing.iter().flatten().any(|failing| failing.is_refused),
            error: error.clone(),
        });
        self.is_down.store(down.is_some(), Ordering::Release);
        self.down.store(down.map(Arc::new));
    }

    /// Whether the operations that keep sessions alive have succeeded for `long`.
    pub(in crate::session) fn kept_alive_for(&self, long: Duration) -> bool {
        let state = self.lock();
        let failing = StoreOperation::ALL
            .into_iter()
            .any(|kind| kind.keeps_alive() && state.failing[kind as usize].is_some());
        !failing && state.not_kept_alive.is_none_or(|failed| failed.elapsed() >= long)
    }

    /// Whether any operation fails.
    pub(in crate::session) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Acquire)
    }

    /// What is wrong, if something is.
    pub(in crate::session) fn now(&self) -> Option<Arc<StoreFailure>> {
        if self.is_down() {
            self.down.load_full()
        } else {
            None
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreFailure {
    /// Whether it is worth nothing that events are proved to arrive: who could not write tells nobody. A late answer alone is no reason.
    pub(in crate::session) fn outdates_proofs(&self) -> bool {
        self.refuses || self.is_confirmed()
    }

    /// Whether the store is known to be out: it has answered no read for a while.
    pub(in crate::session) fn is_confirmed(&self) -> bool {
        self.reads.is_some_and(|since| since.elapsed() >= CONFIRMED_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn error(text: &str) -> StoreError {
        StoreError::refused(text)
    }

    fn late() -> StoreError {
        StoreError::new("late")
    }

    #[tokio::test(start_paused = true)]
    async fn late_answer_is_made_up_for_by_any_answer() {
        let outage = Outage::default();
        outage.failed(StoreOperation::Bind, &late());
        outage.failed(StoreOperation::Load, &late());
        assert!(!outage.now().unwrap().outdates_proofs());
        outage.answered(StoreOperation::Load);
        assert!(outage.now().is_none());
        // Refusals are not.
        outage.failed(StoreOperation::Bind, &error("full"));
        assert!(outage.now().unwrap().outdates_proofs());
        outage.answered(StoreOperation::Load);
        assert!(outage.now().is_some());
        outage.answered(StoreOperation::Bind);
        // Reads that come late for long are an outage, too.
        outage.failed(StoreOperation::Load, &late());
        tokio::time::advance(SECOND).await;
        assert!(outage.now().unwrap().outdates_proofs());
    }

    #[tokio::test(start_paused = true)]
    async fn outage_lasts_until_the_kind_that_failed_succeeds() {
        let outage = Outage::default();
        assert_eq!(outage.answered(StoreOperation::Load), OutageChange::None);
        let began = Instant::now();
        assert_eq!(
            outage.failed(StoreOperation::Create, &error("one")),
            OutageChange::Turned { log: true }
        );
        tokio::time::advance(5 * SECOND).await;
        assert_eq!(
            outage.failed(StoreOperation::Create, &error("two")),
            OutageChange::None
        );
        // Reads succeed, and so does their probe: that says nothing of writes.
        for reads in [
            StoreOperation::Load,
            StoreOperation::Incarnation,
            StoreOperation::ProbeReads,
        ] {
            assert_eq!(outage.answered(reads), OutageChange::None);
        }
        let down = outage.now().unwrap();
        assert_eq!((down.since, down.reads), (began, None));
        assert!(down.error.to_string().contains("two"));
        assert_eq!(
            outage.answered(StoreOperation::Create),
            OutageChange::Turned { log: true }
        );
        assert!(outage.now().is_none() && !outage.is_down());
        assert_eq!(outage.answered(StoreOperation::Create), OutageChange::None);
        // The probe uses every command: it speaks for all kinds of its sort.
        for write in [
            StoreOperation::Bind,
            StoreOperation::Touch,
            StoreOperation::ProbeWrites,
        ] {
            outage.failed(write, &error("three"));
        }
        assert_eq!(
            outage.answered(StoreOperation::ProbeWrites),
            OutageChange::Turned { log: false }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn outage_of_reads_is_confirmed_after_failures_without_a_success() {
        let outage = Outage::default();
        outage.failed(StoreOperation::Create, &error("writes"));
        tokio::time::advance(10 * SECOND).await;
        assert!(!outage.now().unwrap().is_confirmed(), "reads succeed");
        outage.failed(StoreOperation::Load, &error("late"));
        assert!(!outage.now().unwrap().is_confirmed(), "one late answer");
        tokio::time::advance(SECOND / 2).await;
        outage.answered(StoreOperation::Load);
        outage.failed(StoreOperation::Load, &error("late again"));
        tokio::time::advance(SECOND / 2).await;
        assert!(
            !outage.now().unwrap().is_confirmed(),
            "it has answered in between"
        );
        tokio::time::advance(SECOND / 2).await;
        assert!(outage.now().unwrap().is_confirmed());
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_count_as_kept_alive_once_touches_have_succeeded_for_a_while() {
        let (outage, long) = (Outage::default(), 5 * SECOND);
        assert!(outage.kept_alive_for(long), "nothing has failed");
        outage.failed(StoreOperation::Create, &error("full"));
        assert!(
            outage.kept_alive_for(long),
            "full memory keeps no session from being touched"
        );
        outage.failed(StoreOperation::Touch, &error("no permission"));
        tokio::time::advance(2 * long).await;
        assert!(!outage.kept_alive_for(Duration::ZERO), "it lasts");
        outage.failed(StoreOperation::Touch, &error("no permission"));
        outage.answered(StoreOperation::Touch);
        assert!(!outage.kept_alive_for(long));
        tokio::time::advance(long).await;
        assert!(outage.kept_alive_for(long));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_that_comes_and_goes_is_not_logged_each_time() {
        let outage = Outage::default();
        let mut logged = 0;
        for _ in 0..600 {
            for news in [
                outage.failed(StoreOperation::Load, &error("flaps")),
                outage.answered(StoreOperation::Load),
            ] {
                logged += u32::from(news == OutageChange::Turned { log: true });
            }
            tokio::time::advance(SECOND / 10).await;
        }
        // In a minute.
        assert_eq!(logged, 12);
    }
}
