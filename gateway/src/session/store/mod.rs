//! Where session records are: the seam, and its two sides.
//!
//! The outcomes are in the types. A record is found, or it is gone: unknown, expired or terminated. When neither can be known the
//! error is [`Unavailable`], and nothing else is an error. Gone and unavailable are never taken for each other: the first is 404 to
//! a client and makes it start over, the second is 503 and makes it wait.
//!
//! Every operation but `create` first checks that the record lives, so that nothing is resurrected.

pub mod memory;
pub mod redis;

use std::fmt::Debug;

use futures::future::BoxFuture;

use super::record::{Binding, NewRecord, Record, RecordKey};
use crate::config::SessionLimits;

/// One life of the store's data, from when it was first empty until it is empty again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation(pub [u8; 8]);

/// Whether a record lives cannot be known at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session store is unavailable: {reason}")]
pub struct Unavailable {
    reason: String,
}

impl Unavailable {
    /// The store gave no usable answer, because of `reason`.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

/// What came of creating a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is there now.
    Created {
        /// The life of the store's data in which it was created.
        incarnation: Incarnation,
        /// When, in seconds since 1970 by the store's clock.
        created: u32,
        /// When it ends at the latest, by the same clock.
        end: u32,
    },
    /// There is a record of that key already. It is not changed.
    Taken,
    /// There are as many sessions as there may be. Nothing is changed.
    Limit(LimitOf),
}

/// Whose number of sessions is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitOf {
    /// The virtual server's.
    Server,
    /// The principal's.
    Principal,
}

/// What came of looking for a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It lives.
    Found(Record),
    /// It does not.
    Gone,
}

/// What came of binding an upstream session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
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
pub enum Setting {
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
pub enum Touched {
    /// It lives, and its deadline is moved.
    Alive,
    /// It does not live.
    Gone,
}

/// What came of ending a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Terminated {
    /// It has ended now: the record as it was, so that its upstream sessions can be deleted.
    Terminated(Record),
    /// It did not live.
    Gone,
}

/// A place for session records.
pub trait SessionStore: Debug + Send + Sync + 'static {
    /// Writes a new record under `key`, if there is none and there are fewer live ones than `limits` say.
    fn create<'a>(
        &'a self,
        key: &'a RecordKey,
        record: &'a NewRecord,
        limits: SessionLimits,
    ) -> BoxFuture<'a, Result<Created, Unavailable>>;

    /// Reads the record under `key`.
    fn load<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Loaded, Unavailable>>;

    /// Binds `binding` as the upstream session at `backend`, if the one bound now has the generation `expected`; 0 means none.
    fn bind_backend<'a>(
        &'a self,
        key: &'a RecordKey,
        backend: &'a str,
        expected: u64,
        binding: &'a Binding,
    ) -> BoxFuture<'a, Result<Bound, Unavailable>>;

    /// Changes what the client has set for the session.
    fn set<'a>(
        &'a self,
        key: &'a RecordKey,
        setting: &'a Setting,
    ) -> BoxFuture<'a, Result<SetOutcome, Unavailable>>;

    /// Moves the idle deadlines of the records under `keys`; the outcomes are in the same order.
    fn touch<'a>(&'a self, keys: &'a [RecordKey]) -> BoxFuture<'a, Result<Vec<Touched>, Unavailable>>;

    /// Removes the record under `key`.
    fn terminate<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Terminated, Unavailable>>;

    /// Asks the store for a sign of life.
    fn ping(&self) -> BoxFuture<'_, Result<(), Unavailable>>;

    /// `memory` or `redis`.
    fn provider(&self) -> &'static str;
}
