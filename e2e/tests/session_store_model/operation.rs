//! A step with what it is done to, and what came of it.

use vmcp_gateway::config::SessionLimits;
use vmcp_gateway::session::record::{Binding, RecordKey};
use vmcp_gateway::session::store::{RestoreReason, SessionLife, SessionLimit, SettingChange};

use crate::held::{Held, Principal};

/// A step with everything that it takes.
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

/// What came of an operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Taken,
    Created(Held),
    Found(Held),
    Gone,
    Bound(Held),
    Lost(Held),
    Set(Held),
    /// Which of them live.
    Touched(Vec<bool>),
    Terminated(Option<Held>),
    Wait,
    /// There is no record, and nothing says why.
    Vanished,
    /// There are as many sessions as there may be.
    Limit(SessionLimit),
    Owned(u64),
    Claimed(Vec<(RecordKey, Held)>),
    Done,
}
