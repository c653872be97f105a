//! The session store: the trait [`SessionStore`] and its outcomes. Implementations: [`memory`] and [`redis`].
//!
//! Outcomes are types. A record is found, or gone: unknown, expired or terminated. If the store cannot say, the error
//! is [`StoreError`]. *Gone* and *unavailable* must never be confused: the first becomes 404, and the client starts
//! over; the second becomes 503, and the client waits.
//!
//! States of a record, as in the diagram in `docs/architecture/sessions.md`:
//! - *alive*: the record exists, and neither deadline has passed.
//! - *terminated*: deleted by [`SessionStore::terminate`], which leaves a tombstone.
//! - *expired*: its idle deadline has passed. The record exists until a sweeper has deleted its upstream sessions.
//! - *lost*: missing, because the store has lost its data or its last writes.
//! - *removed*: deleted after it had expired, or lost until its absolute deadline.
//!
//! Invariant: every change checks first that the record is alive, so no change resurrects a session. Only
//! [`SessionStore::restore`] and [`SessionStore::recover`] write a record where none is alive. Both check for the
//! tombstone that [`SessionStore::terminate`] leaves, and `recover` acts only if the store has lost its data since
//! the id was created.
//!
//! Replicas learn of each other's changes from [`SessionStore::events`].

pub mod memory;
pub mod redis;

use std::fmt::Debug;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::time::Instant;

use super::record::{Binding, NewRecord, Record, RecordKey};
pub use super::record::{Incarnation, SessionLife};
use crate::config::SessionLimits;

/// Names a process among those that share a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId(pub [u8; 8]);

/// Time for which a process keeps a block of request ids that it does not claim again.
pub const ID_BLOCK_LEASE: Duration = Duration::from_secs(60 * 60);
/// Time after a loss of data in which replicas restore cached records, before a session is recovered from its id
/// alone. Replicas with more knowledge come first.
pub const RESTORE_WINDOW: Duration = Duration::from_secs(1);
/// Lifetime of a tombstone while the store keeps its data.
pub const TOMBSTONE_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Maximum time from the creation of a session until its record, lost in a failover, is written back: one minute of
/// lost writes, and one minute until another server is promoted.
pub const MAX_RESTORE_DELAY: Duration = Duration::from_secs(2 * 60);

/// Lifetime of the persisted catalog in the store when no process renews it.
pub const PERSISTED_CATALOG_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Why an operation got no usable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnavailableCause {
    /// The store did not answer, or not usefully. Another connection may work.
    NoAnswer,
    /// The store refused the operation. Retrying over another connection does not help.
    Refused,
    /// The store refuses this process: its password, its user, its permissions or its database. That lasts until a person changes the
    /// settings of one of the two.
    AccessDenied,
}

/// Error of a store operation. It never means that a record is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store gave no usable answer, so it is not known whether the session is alive.
    #[error("the session store is unavailable: {reason}")]
    Unavailable {
        /// What failed.
        reason: String,
        /// What the store did instead.
        cause: UnavailableCause,
    },
    /// The store answered, but this version cannot use the record or the data for it.
    #[error("{detail}")]
    CorruptRecord {
        /// What is wrong with the record.
        detail: String,
    },
}

impl StoreError {
    /// The store gave no usable answer, because of `reason`.
    #[must_use]
    pub fn unavailable(reason: impl std::fmt::Display) -> Self {
        Self::Unavailable {
            reason: reason.to_string(),
            cause: UnavailableCause::NoAnswer,
        }
    }

    /// The store refused the operation, because of `reason`.
    #[must_use]
    pub fn refused(reason: impl std::fmt::Display) -> Self {
        Self::Unavailable {
            reason: reason.to_string(),
            cause: UnavailableCause::Refused,
        }
    }

    /// The store refuses this process, because of `reason`.
    #[must_use]
    pub fn access_denied(reason: impl std::fmt::Display) -> Self {
        Self::Unavailable {
            reason: reason.to_string(),
            cause: UnavailableCause::AccessDenied,
        }
    }

    /// What failed, for people.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Unavailable { reason, .. } => reason,
            Self::CorruptRecord { detail } => detail,
        }
    }

    /// The same error, with `what` before its reason.
    #[must_use]
    pub fn context(self, what: impl std::fmt::Display) -> Self {
        self.map_reason(|reason| format!("{what}: {reason}"))
    }

    /// The same error, with `secret` replaced by `<hidden>`: a server or a proxy may repeat what it was sent.
    #[must_use]
    pub fn hiding(self, secret: &str) -> Self {
        if secret.is_empty() {
            return self;
        }
        self.map_reason(|reason| reason.replace(secret, "<hidden>"))
    }

    fn map_reason(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Unavailable { reason, cause } => Self::Unavailable {
                reason: change(reason),
                cause,
            },
            Self::CorruptRecord { detail } => Self::CorruptRecord {
                detail: change(detail),
            },
        }
    }

    /// One record is unusable. The store itself answers.
    #[must_use]
    pub fn corrupt_record(detail: impl Into<String>) -> Self {
        Self::CorruptRecord {
            detail: detail.into(),
        }
    }

    /// Whether the store answered with a refusal.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.has_cause(UnavailableCause::Refused) || self.is_access_denied()
    }

    /// Whether the store refuses this process.
    #[must_use]
    pub fn is_access_denied(&self) -> bool {
        self.has_cause(UnavailableCause::AccessDenied)
    }

    fn has_cause(&self, wanted: UnavailableCause) -> bool {
        matches!(self, Self::Unavailable { cause, .. } if *cause == wanted)
    }

    /// Whether only one record is unusable, while the store answers.
    #[must_use]
    pub fn is_corrupt_record(&self) -> bool {
        matches!(self, Self::CorruptRecord { .. })
    }
}

/// Outcome of creating a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// The record was created.
    Created {
        /// Creation time in seconds since 1970, by the store's clock.
        created: u32,
        /// The new record.
        record: Record,
    },
    /// The key exists already. Its record is unchanged.
    AlreadyExists,
    /// A session limit is reached. Nothing was changed.
    Limit(SessionLimit),
}

/// Which session limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionLimit {
    /// The limit of the virtual server.
    Server,
    /// The limit of the principal.
    Principal,
}

/// Outcome of loading a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadOutcome {
    /// The session is alive.
    Found(Record),
    /// The session is unknown, expired or terminated.
    Gone,
}

/// Outcome of bringing a record back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoverOutcome {
    /// The session is alive: restored now, or earlier by another replica.
    Found(Record),
    /// The session was not lost: it has expired, was terminated, or has ended after an earlier recovery.
    Gone,
    /// Another replica may still have the record cached. Try again after this time.
    Wait(Duration),
    /// The record is missing in the incarnation in which the session began, without a tombstone.
    Vanished {
        /// When it was missing, in seconds since 1970 by the store's clock.
        now: u32,
    },
}

/// Why a record is written back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreReason {
    /// The store has lost the record, with all its data or with the last writes.
    Lost,
    /// The record expired while it was in use, because the store was unavailable. Only a record that still exists is
    /// brought back; a terminated session has none.
    Expired,
}

/// Outcome of claiming a session's GET stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamClaim {
    /// The stream belongs to the caller. The number grows with each claim; the higher number is the newer stream.
    Owned(u64),
    /// The session is not alive.
    Gone,
}

/// Changes in the store, in the order in which they happened.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreEvent {
    /// The records were created or changed; these are their new contents.
    Records(Vec<(RecordKey, Record)>),
    /// The record was changed, but the event does not contain it: it is too large, or of a newer format.
    Changed(RecordKey),
    /// The session was terminated by any process.
    Terminated(RecordKey, SessionLife),
    /// The session's GET stream was claimed.
    StreamOwner {
        /// The session.
        key: RecordKey,
        /// The process that claimed it.
        owner: ProcessId,
        /// The claim's number.
        number: u64,
    },
    /// All changes before this moment were reported before this event: a PING that was sent then was answered.
    CurrentAsOf(Instant),
    /// Changes may be missed from now on until the next [`Self::CurrentAsOf`].
    Interrupted,
}

/// Outcome of binding an upstream session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindOutcome {
    /// Bound. The record contains the settings to send to the upstream session; a later change of settings finds the
    /// binding.
    Bound(Record),
    /// Another one was bound first. The record contains it.
    Lost(Record),
    /// The session is not alive.
    Gone,
}

/// A change of a client's session settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingChange {
    /// Sets the minimum level of log messages.
    LogLevel(String),
    /// Subscribes to a resource of `backend`. At most [`MAX_SUBSCRIPTIONS`] at a time.
    Subscribe {
        /// URI of the resource.
        uri: String,
        /// Name of the backend that has it.
        backend: String,
    },
    /// Removes a subscription.
    Unsubscribe {
        /// URI of the resource.
        uri: String,
    },
}

/// Maximum number of subscriptions per session. They are stored in the record.
pub const MAX_SUBSCRIPTIONS: usize = 256;

/// Outcome of a change of settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// Changed. The record contains every upstream session that must get the setting.
    Set(Record),
    /// There are [`MAX_SUBSCRIPTIONS`] already. Nothing was changed.
    Full,
    /// The session is not alive.
    Gone,
}

/// Outcome of moving a record's idle deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TouchOutcome {
    /// The session is alive, and its deadline was moved.
    Alive {
        /// Value of [`Record::version`].
        version: u64,
        /// Value of [`Record::left`].
        left: Duration,
    },
    /// The session is not alive.
    Gone,
}

/// Outcome of terminating a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TerminateOutcome {
    /// The session has ended now. The record names the upstream sessions to delete; `None` if it was lost with the
    /// store's data.
    Terminated(Option<Record>),
    /// The session was not alive.
    Gone,
}

/// Persisted lists by backend name, in the form of `crate::catalog::written`.
pub type StoredOffers = Vec<(String, Vec<u8>)>;

/// A store of session records.
pub trait SessionStore: Debug + Send + Sync + 'static {
    /// Creates a record under `key`, if there is none and `limits` are not reached.
    fn create<'a>(
        &'a self,
        key: &'a RecordKey,
        record: &'a NewRecord,
        limits: SessionLimits,
    ) -> BoxFuture<'a, Result<CreateOutcome, StoreError>>;

    /// Loads the record under `key`.
    fn load<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<LoadOutcome, StoreError>>;

    /// Binds `binding` as the upstream session at `backend`: a compare-and-set on the generation. `expected` is the
    /// generation to replace; 0 means none.
    fn bind_backend<'a>(
        &'a self,
        key: &'a RecordKey,
        backend: &'a str,
        expected: u64,
        binding: &'a Binding,
    ) -> BoxFuture<'a, Result<BindOutcome, StoreError>>;

    /// Changes a setting of the session.
    fn set<'a>(
        &'a self,
        key: &'a RecordKey,
        setting: &'a SettingChange,
    ) -> BoxFuture<'a, Result<SetOutcome, StoreError>>;

    /// Moves the idle deadlines of `keys`. Outcomes are in the same order.
    fn touch<'a>(&'a self, keys: &'a [RecordKey]) -> BoxFuture<'a, Result<Vec<TouchOutcome>, StoreError>>;

    /// Claims the session's GET stream for the process `owner`.
    fn claim_stream<'a>(
        &'a self,
        key: &'a RecordKey,
        owner: ProcessId,
    ) -> BoxFuture<'a, Result<StreamClaim, StoreError>>;

    /// Deletes the record under `key` and leaves a tombstone. It lives for the rest of `life` if the store has lost
    /// its data since the id was created, otherwise for [`TOMBSTONE_LIFETIME`].
    fn terminate<'a>(
        &'a self,
        key: &'a RecordKey,
        life: SessionLife,
    ) -> BoxFuture<'a, Result<TerminateOutcome, StoreError>>;

    /// Creates `new` under `key` if the store has lost its data since the id was created. Works once per session.
    fn recover<'a>(
        &'a self,
        key: &'a RecordKey,
        life: SessionLife,
        new: &'a NewRecord,
    ) -> BoxFuture<'a, Result<RecoverOutcome, StoreError>>;

    /// Writes `record` back under `key` if no record is alive and there is no tombstone. While the store keeps its
    /// data, tombstones live for [`TOMBSTONE_LIFETIME`]; a replica that was cut off for longer must not pass
    /// [`RestoreReason::Lost`].
    fn restore<'a>(
        &'a self,
        key: &'a RecordKey,
        record: &'a Record,
        missing: RestoreReason,
    ) -> BoxFuture<'a, Result<RecoverOutcome, StoreError>>;

    /// Reads the incarnation of the store's data.
    fn incarnation(&self) -> BoxFuture<'_, Result<Incarnation, StoreError>>;

    /// Claims at most `limit` records whose idle deadline passed at least `ago` ago. No other process gets them for
    /// the same time again. The caller deletes their upstream sessions, then calls [`Self::remove_expired`].
    fn claim_expired(
        &self,
        ago: Duration,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(RecordKey, Record)>, StoreError>>;

    /// Deletes those records of `keys` that are not alive.
    fn remove_expired<'a>(&'a self, keys: &'a [RecordKey]) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The latest lists that any process saved by [`Self::keep_offer`], for each backend.
    fn offers(&self) -> BoxFuture<'_, Result<StoredOffers, StoreError>>;

    /// Saves `offer`, the lists of `backend`, for processes that start; `None` removes them. They live for
    /// [`PERSISTED_CATALOG_LIFETIME`].
    fn keep_offer<'a>(
        &'a self,
        backend: &'a str,
        offer: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The session that any process last saved by [`Self::keep_shared_session`].
    fn shared_session<'a>(&'a self, backend: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, StoreError>>;

    /// Saves the upstream session that all clients share at `backend`, for [`PERSISTED_CATALOG_LIFETIME`].
    fn keep_shared_session<'a>(
        &'a self,
        backend: &'a str,
        session: &'a [u8],
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Claims a block of request ids at `backend` for `owner`, for [`ID_BLOCK_LEASE`], and returns the block that is claimed. That is
    /// `block` if it is free, or if `is_held` says that `owner` has it and renews the lease; otherwise it is another block.
    fn claim_id_block<'a>(
        &'a self,
        backend: &'a str,
        owner: ProcessId,
        block: u32,
        is_held: bool,
    ) -> BoxFuture<'a, Result<u32, StoreError>>;

    /// Changes made by other processes, and by this one except for records that it creates. A PING is sent every
    /// `every` ([`StoreEvent::CurrentAsOf`]). The stream reconnects by itself and does not end. `None` if no other
    /// process can use the store.
    fn events(&self, every: Duration) -> Option<BoxStream<'static, StoreEvent>>;

    /// Uses every command of the reading operations, on no session's record. Succeeds only if those operations would.
    fn probe_reads(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Uses every command of the writing operations, on no session's record, and leaves nothing behind. Succeeds only
    /// if those operations would.
    fn probe_writes(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Name of the store: `memory` or `redis`.
    fn provider(&self) -> &'static str;

    /// Why the store may drop sessions that are in use. `None` if it keeps them, or if that is not known.
    fn eviction_warning(&self) -> Option<String>;
}
