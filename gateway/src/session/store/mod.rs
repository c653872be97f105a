//! Where session records are: the seam, and its two sides.
//!
//! The outcomes are in the types. A record is found, or it is gone: unknown, expired or terminated. When neither can be known the
//! error is [`StoreError`], and nothing else is an error. Gone and unavailable are never taken for each other: the first is 404 to
//! a client and makes it start over, the second is 503 and makes it wait.
//!
//! Every change first checks that the record lives, so that nothing is resurrected. Two operations write a record where none lives:
//! [`SessionStore::restore`] and [`SessionStore::recover`]. Both ask whether the session was terminated, which [`SessionStore::terminate`]
//! writes down beside the record, and `recover` acts only when the store has lost its data since the session's id was made.
//!
//! Processes learn of each other's changes by [`SessionStore::events`].

pub mod memory;
pub mod redis;

use std::fmt::Debug;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::time::Instant;

use super::record::{Binding, NewRecord, Record, RecordKey};
use crate::config::SessionLimits;

/// One life of the store's data, from when it was first empty until it is empty again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation(pub [u8; 8]);

/// When a session's life began and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLife {
    /// The life of the store's data in which the session's id was made.
    pub incarnation: Incarnation,
    /// When the session ends at the latest, in seconds since 1970 by the store's clock.
    pub end: u32,
}

/// Names a process among those that share a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId(pub [u8; 8]);

/// How long those who know more of a lost session have to write it back, before it is recovered from its id alone.
pub const SETTLE: Duration = Duration::from_secs(1);
/// How long the end of a session is remembered whose data the store has not lost since it began.
pub const REMEMBERED: Duration = Duration::from_secs(5 * 60);
/// The longest time from when a session is created until those who know it have written it back behind a fail-over that has lost it: a
/// minute for what a store may lose, and a minute until another server has taken over.
pub const LOST_WITHIN: Duration = Duration::from_secs(2 * 60);

/// How long what backends offer is kept for processes that start, when no process says it again.
pub const OFFERS_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Whether a record lives cannot be known at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct StoreError {
    text: String,
    of_record: bool,
    is_refusal: bool,
}

impl StoreError {
    /// The store gave no usable answer, because of `reason`.
    #[must_use]
    pub fn new(reason: impl std::fmt::Display) -> Self {
        Self {
            text: format!("the session store is unavailable: {reason}"),
            of_record: false,
            is_refusal: false,
        }
    }

    /// The store answered that it does not do what it was asked, because of `reason`.
    #[must_use]
    pub fn refused(reason: impl std::fmt::Display) -> Self {
        Self {
            is_refusal: true,
            ..Self::new(reason)
        }
    }

    /// Whether the store answered, and refused.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.is_refusal
    }

    /// The store answered, but what it holds of this session cannot be used, as `text` says.
    #[must_use]
    pub fn of_record(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            of_record: true,
            is_refusal: false,
        }
    }

    /// Whether only one record is concerned, and the store itself answers.
    #[must_use]
    pub fn is_of_record(&self) -> bool {
        self.of_record
    }
}

/// What came of creating a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// It is there now.
    Created {
        /// When, in seconds since 1970 by the store's clock.
        created: u32,
        /// The record.
        record: Record,
    },
    /// There is a record of that key already. It is not changed.
    AlreadyExists,
    /// There are as many sessions as there may be. Nothing is changed.
    Limit(SessionLimit),
}

/// Whose number of sessions is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionLimit {
    /// The virtual server's.
    Server,
    /// The principal's.
    Principal,
}

/// What came of looking for a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadOutcome {
    /// It lives.
    Found(Record),
    /// It does not.
    Gone,
}

/// What came of bringing a record back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoverOutcome {
    /// It lives now: brought back just now, or before by somebody else.
    Found(Record),
    /// It was not lost: it has expired, it was terminated, or it was brought back before and has ended since.
    Gone,
    /// Somebody may still know more of it. Try again after this.
    Wait(Duration),
    /// There is no record in the life of the data in which the session began, and nothing that says why.
    Vanished {
        /// When that was so, in seconds since 1970 by the store's clock.
        now: u32,
    },
}

/// Why a record is to be written back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreReason {
    /// The store has lost it, with all of its data or with what was written last.
    Lost,
    /// It has expired while it was in use and the store could not be told. Only one that is still there is brought back: one that was
    /// terminated is not.
    Expired,
}

/// What came of opening a session's own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamClaim {
    /// The stream is the caller's. The number grows each time: of two streams the one with the larger number is the newer.
    Owned(u64),
    /// The session does not live.
    Gone,
}

/// What processes learn of each other, in the order in which it happened.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreEvent {
    /// The records were created or changed: as they are now.
    Records(Vec<(RecordKey, Record)>),
    /// The record has changed, and is too large to be told, or was told in words that this process does not know.
    Changed(RecordKey),
    /// The session was terminated.
    Terminated(RecordKey, SessionLife),
    /// The session's own stream was opened.
    StreamOwner {
        /// Whose.
        key: RecordKey,
        /// By this process.
        owner: ProcessId,
        /// For the so-many-th time.
        number: u64,
    },
    /// Whatever happened before this moment was told before this event.
    Proved(Instant),
    /// From now on until the next [`Self::Proved`] something may happen that is never told.
    Interrupted,
}

/// What came of binding an upstream session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindOutcome {
    /// It is bound: the record as it is with it. What the record says of the session's settings is what the upstream session has
    /// to be told; whoever changes them later finds the binding.
    Bound(Record),
    /// Another one was bound meanwhile: the record as it is.
    Lost(Record),
    /// The session does not live.
    Gone,
}

/// A change of what a client has set for its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingChange {
    /// From this level on it wants log messages.
    LogLevel(String),
    /// It wants to hear when the resource changes, which `backend` has. At most [`MAX_SUBSCRIPTIONS`] at a time.
    Subscribe {
        /// The resource.
        uri: String,
        /// The backend that has it.
        backend: String,
    },
    /// It does not want to hear of the resource any more.
    Unsubscribe {
        /// The resource.
        uri: String,
    },
}

/// How many resources a session may watch at a time: they are stored with it.
pub const MAX_SUBSCRIPTIONS: usize = 256;

/// What came of a change of a session's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// It is done: the record as it is now, with every upstream session that has to be told.
    Set(Record),
    /// There are [`MAX_SUBSCRIPTIONS`] already. Nothing is changed.
    Full,
    /// The session does not live.
    Gone,
}

/// What came of moving a record's idle deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TouchOutcome {
    /// It lives, and its deadline is moved.
    Alive {
        /// [`Record::version`].
        version: u64,
        /// [`Record::left`].
        left: Duration,
    },
    /// It does not live.
    Gone,
}

/// What came of ending a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TerminateOutcome {
    /// It has ended now: the record as it was, so that its upstream sessions can be deleted; `None` when the record was lost with the
    /// store's data.
    Terminated(Option<Record>),
    /// It did not live.
    Gone,
}

/// What backends offer, in the form of [`crate::catalog::written`], by the backends' names.
pub type StoredOffers = Vec<(String, Vec<u8>)>;

/// A place for session records.
pub trait SessionStore: Debug + Send + Sync + 'static {
    /// Writes a new record under `key`, if there is none and there are fewer live ones than `limits` say.
    fn create<'a>(
        &'a self,
        key: &'a RecordKey,
        record: &'a NewRecord,
        limits: SessionLimits,
    ) -> BoxFuture<'a, Result<CreateOutcome, StoreError>>;

    /// Reads the record under `key`.
    fn load<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<LoadOutcome, StoreError>>;

    /// Binds `binding` as the upstream session at `backend`, if the one bound now has the generation `expected`; 0 means none.
    fn bind_backend<'a>(
        &'a self,
        key: &'a RecordKey,
        backend: &'a str,
        expected: u64,
        binding: &'a Binding,
    ) -> BoxFuture<'a, Result<BindOutcome, StoreError>>;

    /// Changes what the client has set for the session.
    fn set<'a>(
        &'a self,
        key: &'a RecordKey,
        setting: &'a SettingChange,
    ) -> BoxFuture<'a, Result<SetOutcome, StoreError>>;

    /// Moves the idle deadlines of the records under `keys`; the outcomes are in the same order.
    fn touch<'a>(&'a self, keys: &'a [RecordKey]) -> BoxFuture<'a, Result<Vec<TouchOutcome>, StoreError>>;

    /// Notes that the session's own stream is open at `owner` now, and nowhere else.
    fn claim_stream<'a>(
        &'a self,
        key: &'a RecordKey,
        owner: ProcessId,
    ) -> BoxFuture<'a, Result<StreamClaim, StoreError>>;

    /// Removes the record under `key`, and remembers that: for the rest of `life` where the store has lost its data since the id was
    /// made, otherwise for [`REMEMBERED`].
    fn terminate<'a>(
        &'a self,
        key: &'a RecordKey,
        life: SessionLife,
    ) -> BoxFuture<'a, Result<TerminateOutcome, StoreError>>;

    /// Writes `new` under `key` if the store has lost its data since the id was made, once.
    fn recover<'a>(
        &'a self,
        key: &'a RecordKey,
        life: SessionLife,
        new: &'a NewRecord,
    ) -> BoxFuture<'a, Result<RecoverOutcome, StoreError>>;

    /// Writes back `record` under `key`, where none lives and the session was not terminated. Of a session whose data the store has not
    /// lost since it began, the latter is known for [`REMEMBERED`]: who was away for longer may not say that it is [`RestoreReason::Lost`].
    fn restore<'a>(
        &'a self,
        key: &'a RecordKey,
        record: &'a Record,
        missing: RestoreReason,
    ) -> BoxFuture<'a, Result<RecoverOutcome, StoreError>>;

    /// The life of the data that the store holds.
    fn incarnation(&self) -> BoxFuture<'_, Result<Incarnation, StoreError>>;

    /// Records whose idle deadlines passed at least `ago` ago, at most `limit` of them, with what they hold. Nobody else gets them for
    /// as long again; until then the caller deletes what they name elsewhere and calls [`Self::remove_expired`].
    fn claim_expired(
        &self,
        ago: Duration,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(RecordKey, Record)>, StoreError>>;

    /// Removes those of the records under `keys` that do not live.
    fn remove_expired<'a>(&'a self, keys: &'a [RecordKey]) -> BoxFuture<'a, Result<(), StoreError>>;

    /// What [`Self::keep_offer`] was given last, by whichever process, for each backend.
    fn offers(&self) -> BoxFuture<'_, Result<StoredOffers, StoreError>>;

    /// Keeps `offer` for processes that start, as what `backend` offers; `None` removes it. Kept for [`OFFERS_KEPT`] after the last
    /// one was kept.
    fn keep_offer<'a>(
        &'a self,
        backend: &'a str,
        offer: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// What [`Self::keep_shared_session`] was given last, by whichever process.
    fn shared_session<'a>(&'a self, backend: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, StoreError>>;

    /// Keeps `session` as the upstream session that all clients share at `backend`. Kept for [`OFFERS_KEPT`].
    fn keep_shared_session<'a>(
        &'a self,
        backend: &'a str,
        session: &'a [u8],
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// A number of which no other process has got the same at `backend`, for as long as anything is kept of that.
    fn take_number<'a>(&'a self, backend: &'a str) -> BoxFuture<'a, Result<u32, StoreError>>;

    /// What other processes do, and this one too but for the records that it creates. A proof ([`StoreEvent::Proved`]) is sought at most `every` so often. The stream does not
    /// end; it reconnects by itself. `None` when there are no other processes.
    fn events(&self, every: Duration) -> Option<BoxStream<'static, StoreEvent>>;

    /// Does what every operation does that only reads, to nobody's record. Succeeds only if those would.
    fn probe_reads(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Does what every operation does that writes, to nobody's record, and leaves nothing behind. Succeeds only if those would.
    fn probe_writes(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// `memory` or `redis`.
    fn provider(&self) -> &'static str;
}
