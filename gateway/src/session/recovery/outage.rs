//! Outage detector: tracks since when each kind of store operation fails.
//!
//! Kinds count separately, because a store can answer some and refuse others: a Redis whose memory is full still
//! reads; one whose user lacks a permission still answers PING. A kind fails from its first error to its next
//! success; after a timeout, as opposed to a refusal, any success ends it. The outage lasts while any kind fails.
//!
//! States: up; failing; confirmed (reads have failed for [`CONFIRMED_AFTER`] without a success). While it lasts, the
//! session layer probes with scripts that use every command of the other operations, so that the end is noticed
//! without traffic, and not too early.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::session::store::StoreError;

/// Time for which reads must fail before the outage is confirmed. A single late response is no outage.
const CONFIRMED_AFTER: Duration = Duration::from_secs(1);
/// Time after an outage or failover for replicas to write back what they know, and to move the deadlines of sessions that
/// they served meanwhile. The clock of a promoted server may be ahead.
pub(in crate::session) const AFTER_OUTAGE: Duration = Duration::from_secs(5);
/// Minimum interval between log messages about outages.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Number of kinds of operations.
const OPERATIONS: usize = 13;

/// Kinds of store operations whose failures count separately.
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
    /// Loads or saves the persisted catalog.
    Offers,
    ProbeReads,
    ProbeWrites,
}

impl StoreOperation {
    /// Whether the operation only reads. While reads fail, session state cannot be checked.
    fn reads(self) -> bool {
        matches!(self, Self::Load | Self::Incarnation | Self::ProbeReads)
    }

    /// Whether sessions in use may look expired while this operation fails.
    fn keeps_alive(self) -> bool {
        self.reads() || matches!(self, Self::Touch | Self::Restore)
    }

    /// Whether a success of `self` implies that `other` would succeed.
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

/// State of the store as this process sees it.
#[derive(Debug, Default)]
pub(in crate::session) struct Outage {
    /// Whether [`Self::down`] is set. Avoids the load of the pointer on each request.
    is_down: AtomicBool,
    down: ArcSwapOption<StoreFailure>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The failing kinds, by the number of the kind.
    failing: [Option<FailingOperation>; OPERATIONS],
    /// When an operation that keeps sessions alive last failed.
    not_kept_alive: Option<Instant>,
    /// When the start of an outage was last logged, and whether the current one was.
    logged: Option<Instant>,
    is_logged: bool,
}

/// One kind of operation fails.
#[derive(Clone, Debug)]
struct FailingOperation {
    since: Instant,
    /// The error of the last attempt.
    error: StoreError,
}

/// What fails in an outage, and since when.
#[derive(Clone, Debug)]
pub(in crate::session) struct StoreFailure {
    /// When the first of the failing operations began to fail.
    pub(in crate::session) since: Instant,
    /// Since when reads fail, if they do.
    pub(in crate::session) reads: Option<Instant>,
    /// Whether the store refuses an operation.
    refuses: bool,
    /// The error of the probe if it fails, otherwise the latest one.
    pub(in crate::session) error: StoreError,
}

/// Whether an operation's outcome starts or ends an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum OutageChange {
    /// The state is as before.
    None,
    /// An outage starts or ends. `log` is false for one that follows the previous one too soon.
    Changed { log: bool },
}

impl Outage {
    /// Records a failed operation, and reports whether an outage begins.
    pub(in crate::session) fn record_failure(
        &self,
        operation: StoreOperation,
        error: &StoreError,
    ) -> OutageChange {
        let now = Instant::now();
        let mut state = self.lock();
        let failing = &mut state.failing[operation as usize];
        let since = failing.as_ref().map_or(now, |failing| failing.since);
        *failing = Some(FailingOperation {
            since,
            error: error.clone(),
        });
        if operation.keeps_alive() {
            state.not_kept_alive = Some(now);
        }
        let began = self.down.load().is_none();
        self.publish(&state, Some(error));
        if !began {
            return OutageChange::None;
        }
        state.is_logged = state.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL);
        if state.is_logged {
            state.logged = Some(now);
        }
        OutageChange::Changed { log: state.is_logged }
    }

    /// Records a successful operation, and reports whether the outage ends.
    pub(in crate::session) fn record_success(&self, operation: StoreOperation) -> OutageChange {
        if !self.is_down() {
            return OutageChange::None;
        }
        let mut state = self.lock();
        for other in StoreOperation::ALL {
            let was_late = state.failing[other as usize]
                .as_ref()
                .is_some_and(|failing| !failing.error.is_refusal());
            if was_late || operation.proves(other) {
                state.failing[other as usize] = None;
            }
        }
        let lasted = self.down.load().is_some();
        self.publish(&state, None);
        if !lasted || self.is_down() {
            return OutageChange::None;
        }
        OutageChange::Changed { log: state.is_logged }
    }

    fn publish(&self, state: &State, error: Option<&StoreError>) {
        let earliest = |counts: fn(StoreOperation) -> bool| {
            let kinds = StoreOperation::ALL.into_iter().filter(|kind| counts(*kind));
            let failing = kinds.filter_map(|kind| state.failing[kind as usize].as_ref());
            failing.map(|failing| failing.since).min()
        };
        let known = self.down.load();
        // The probe is the same each time, so its error stays the same while other operations fail in several ways.
        let probes = [StoreOperation::ProbeReads, StoreOperation::ProbeWrites];
        let mut probed = probes.iter().filter_map(|kind| {
            let failing = state.failing[*kind as usize].as_ref()?;
            Some(&failing.error)
        });
        let error = probed
            .next()
            .or(error)
            .or_else(|| known.as_ref().map(|down| &down.error));
        let down = earliest(|_| true).zip(error).map(|(since, error)| StoreFailure {
            since,
            reads: earliest(StoreOperation::reads),
            refuses: state
                .failing
                .iter()
                .flatten()
                .any(|failing| failing.error.is_refusal()),
            error: error.clone(),
        });
        self.is_down.store(down.is_some(), Ordering::Release);
        self.down.store(down.map(Arc::new));
    }

    /// Whether all operations that keep sessions alive have succeeded for `long`.
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

    /// Whether operations of this kind are known to fail.
    pub(in crate::session) fn is_failing(&self, operation: StoreOperation) -> bool {
        let is_out = || self.current().is_some_and(|down| down.is_confirmed());
        self.is_down() && (self.lock().failing[operation as usize].is_some() || is_out())
    }

    /// The current outage, if there is one.
    pub(in crate::session) fn current(&self) -> Option<Arc<StoreFailure>> {
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
    /// Whether the store refuses an operation, or the outage is confirmed. A single late response does not count. Freshness
    /// must not be trusted then: a replica that cannot write publishes no events.
    pub(in crate::session) fn is_certain(&self) -> bool {
        self.refuses || self.is_confirmed()
    }

    /// Whether the outage is confirmed: all reads have failed for a while.
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
        StoreError::unavailable("late")
    }

    #[tokio::test(start_paused = true)]
    async fn kind_fails_alone_until_the_outage_is_confirmed() {
        let outage = Outage::default();
        let fails = || [StoreOperation::Bind, StoreOperation::Set].map(|kind| outage.is_failing(kind));
        outage.record_failure(StoreOperation::Bind, &error("full"));
        assert_eq!(fails(), [true, false]);
        outage.record_success(StoreOperation::Bind);
        outage.record_failure(StoreOperation::Load, &late());
        assert_eq!(fails(), [false, false], "one late answer is no outage");
        tokio::time::advance(CONFIRMED_AFTER).await;
        assert_eq!(fails(), [true, true]);
        outage.record_success(StoreOperation::Load);
        assert_eq!(fails(), [false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn timeout_is_cleared_by_any_success() {
        // A timed-out kind recovers with any success; a refused one only with its own.
        let outage = Outage::default();
        outage.record_failure(StoreOperation::Bind, &late());
        outage.record_failure(StoreOperation::Load, &late());
        assert!(!outage.current().unwrap().is_certain());
        outage.record_success(StoreOperation::Load);
        assert!(outage.current().is_none());
        // A refusal ends only with a success of the same kind.
        outage.record_failure(StoreOperation::Bind, &error("full"));
        assert!(outage.current().unwrap().is_certain());
        outage.record_success(StoreOperation::Load);
        assert!(outage.current().is_some());
        outage.record_success(StoreOperation::Bind);
        // Late reads for long enough are an outage as well.
        outage.record_failure(StoreOperation::Load, &late());
        tokio::time::advance(SECOND).await;
        assert!(outage.current().unwrap().is_certain());
    }

    #[tokio::test(start_paused = true)]
    async fn outage_lasts_until_the_failed_kind_succeeds() {
        let outage = Outage::default();
        assert_eq!(outage.record_success(StoreOperation::Load), OutageChange::None);
        let began = Instant::now();
        assert_eq!(
            outage.record_failure(StoreOperation::Create, &error("one")),
            OutageChange::Changed { log: true }
        );
        tokio::time::advance(5 * SECOND).await;
        assert_eq!(
            outage.record_failure(StoreOperation::Create, &error("two")),
            OutageChange::None
        );
        // Successful reads and their probe do not imply that writes succeed.
        for reads in [
            StoreOperation::Load,
            StoreOperation::Incarnation,
            StoreOperation::ProbeReads,
        ] {
            assert_eq!(outage.record_success(reads), OutageChange::None);
        }
        let down = outage.current().unwrap();
        assert_eq!((down.since, down.reads), (began, None));
        assert!(down.error.to_string().contains("two"));
        assert_eq!(
            outage.record_success(StoreOperation::Create),
            OutageChange::Changed { log: true }
        );
        assert!(outage.current().is_none() && !outage.is_down());
        assert_eq!(outage.record_success(StoreOperation::Create), OutageChange::None);
        // The write probe uses every writing command, so its success counts for all of them.
        for write in [
            StoreOperation::Bind,
            StoreOperation::Touch,
            StoreOperation::ProbeWrites,
        ] {
            outage.record_failure(write, &error("three"));
        }
        assert_eq!(
            outage.record_success(StoreOperation::ProbeWrites),
            OutageChange::Changed { log: false }
        );
    }

    // Operations may fail in several ways, in an order that depends on clients. The status must not change each time.
    #[tokio::test(start_paused = true)]
    async fn error_of_the_probe_is_reported_while_it_fails() {
        let outage = Outage::default();
        let reported = || outage.current().unwrap().error.reason().to_owned();
        outage.record_failure(StoreOperation::Create, &error("create"));
        assert_eq!(reported(), "create");
        outage.record_failure(StoreOperation::ProbeWrites, &error("probe"));
        outage.record_failure(StoreOperation::Offers, &error("offers"));
        assert_eq!(reported(), "probe");
        outage.record_failure(StoreOperation::ProbeReads, &error("reads"));
        assert_eq!(reported(), "reads");
    }

    #[tokio::test(start_paused = true)]
    async fn read_outage_is_confirmed_after_steady_failures() {
        // An outage is confirmed after reads have failed for a second without a success.
        let outage = Outage::default();
        outage.record_failure(StoreOperation::Create, &error("writes"));
        tokio::time::advance(10 * SECOND).await;
        assert!(!outage.current().unwrap().is_confirmed(), "reads succeed");
        outage.record_failure(StoreOperation::Load, &error("late"));
        assert!(!outage.current().unwrap().is_confirmed(), "one late answer");
        tokio::time::advance(SECOND / 2).await;
        outage.record_success(StoreOperation::Load);
        outage.record_failure(StoreOperation::Load, &error("late again"));
        tokio::time::advance(SECOND / 2).await;
        assert!(
            !outage.current().unwrap().is_confirmed(),
            "it has answered in between"
        );
        tokio::time::advance(SECOND / 2).await;
        assert!(outage.current().unwrap().is_confirmed());
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_count_as_kept_alive_after_steady_touches() {
        // Sessions count as kept alive once touches have succeeded for the given time.
        let (outage, long) = (Outage::default(), 5 * SECOND);
        assert!(outage.kept_alive_for(long), "nothing has failed");
        outage.record_failure(StoreOperation::Create, &error("full"));
        assert!(
            outage.kept_alive_for(long),
            "full memory keeps no session from being touched"
        );
        outage.record_failure(StoreOperation::Touch, &error("no permission"));
        tokio::time::advance(2 * long).await;
        assert!(!outage.kept_alive_for(Duration::ZERO), "it lasts");
        outage.record_failure(StoreOperation::Touch, &error("no permission"));
        outage.record_success(StoreOperation::Touch);
        assert!(!outage.kept_alive_for(long));
        tokio::time::advance(long).await;
        assert!(outage.kept_alive_for(long));
    }

    #[tokio::test(start_paused = true)]
    async fn flapping_outage_is_logged_at_a_limited_rate() {
        // An outage that starts and ends repeatedly is logged once per interval.
        let outage = Outage::default();
        let mut logged = 0;
        for _ in 0..600 {
            for change in [
                outage.record_failure(StoreOperation::Load, &error("flaps")),
                outage.record_success(StoreOperation::Load),
            ] {
                logged += u32::from(change == OutageChange::Changed { log: true });
            }
            tokio::time::advance(SECOND / 10).await;
        }
        // Within a minute.
        assert_eq!(logged, 12);
    }
}
