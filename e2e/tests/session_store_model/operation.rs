//! An operation on the store, and its outcome.

use vmcp_gateway::config::SessionLimits;
use vmcp_gateway::session::record::{Binding, RecordKey};
use vmcp_gateway::session::store::{RestoreReason, SessionLife, SessionLimit, SettingChange};

use crate::held::{Held, Principal};

/// An operation with its arguments.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Create(RecordKey, Principal, SessionLimits),
    Load(RecordKey),
    Bind(RecordKey, &'static str, u64, Box<Binding>),
    Set(RecordKey, SettingChange),
    Touch(Vec<RecordKey>),
    Terminate(RecordKey, SessionLife),
    Recover(RecordKey, SessionLife, Principal),
    Restore(RecordKey, Box<Held>, RestoreReason),
    OwnStream(RecordKey),
    Claim,
    Remove(Vec<RecordKey>),
    Expire(RecordKey),
    Lose,
}

/// The outcome of an operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Taken,
    Created(Held),
    Found(Held),
    Gone,
    Bound(Held),
    Lost(Held),
    Set(Held),
    /// Which of the sessions are alive.
    Touched(Vec<bool>),
    Terminated(Option<Held>),
    Wait,
    /// There is no record, and the reason is unknown.
    Vanished,
    /// The limit of sessions is reached.
    Limit(SessionLimit),
    Owned(u64),
    Claimed(Vec<(RecordKey, Held)>),
    Done,
}
