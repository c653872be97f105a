//! The generated steps of a round, before they get their sessions.

use proptest::prelude::*;

use crate::{BACKENDS, CLIENTS, RESOURCES, SESSIONS};

/// The share of rounds in which Redis is killed, which is small because a restart takes time.
const KILLED: f64 = 0.01;

/// One step of one process, or of the environment. Sessions are named by their index.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Creates a session, unless there are too many of the virtual server (`.1`) or of the principal (`.2`).
    Create(usize, bool, bool),
    Load(usize),
    /// Binds at a backend; whether the generation is expected that was there before the round.
    Bind(usize, usize, bool),
    LogLevel(usize, bool),
    Watch(usize, usize, usize),
    Unwatch(usize, usize),
    Touch(Vec<usize>),
    Terminate(usize),
    Recover(usize),
    /// Restores a record of some rounds ago: as lost, or as expired.
    Restore(usize, bool),
    OwnStream(usize),
    /// Claims expired sessions.
    Claim,
    /// Removes the expired ones of these.
    Remove(Vec<usize>),
    /// The session is not used for long.
    Expire(usize),
    /// Redis loses its data.
    Lose,
}

/// The concurrent steps of a round.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) steps: Vec<(usize, Step)>,
    /// Whether Redis is killed meanwhile, when so many of the outcomes are there, and started again empty.
    pub(crate) killed: Option<usize>,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let session = || 0..SESSIONS;
    let limited = || prop::bool::weighted(0.3);
    let step = prop_oneof![
        4 => (session(), limited(), limited()).prop_map(|(s, server, principal)| Step::Create(s, server, principal)),
        2 => session().prop_map(Step::Load),
        6 => (session(), 0..BACKENDS.len(), prop::bool::weighted(0.8)).prop_map(|(s, b, right)| Step::Bind(s, b, right)),
        2 => (session(), any::<bool>()).prop_map(|(s, high)| Step::LogLevel(s, high)),
        2 => (session(), 0..RESOURCES.len(), 0..BACKENDS.len()).prop_map(|(s, r, b)| Step::Watch(s, r, b)),
        1 => (session(), 0..RESOURCES.len()).prop_map(|(s, r)| Step::Unwatch(s, r)),
        2 => proptest::collection::vec(session(), 1..SESSIONS).prop_map(Step::Touch),
        3 => session().prop_map(Step::Terminate),
        4 => session().prop_map(Step::Recover),
        5 => (session(), any::<bool>()).prop_map(|(s, lost)| Step::Restore(s, lost)),
        2 => session().prop_map(Step::OwnStream),
        2 => Just(Step::Claim),
        2 => proptest::collection::vec(session(), 1..SESSIONS).prop_map(Step::Remove),
        3 => session().prop_map(Step::Expire),
        1 => Just(Step::Lose),
    ];
    (0..CLIENTS, step)
}

pub(crate) fn round() -> impl Strategy<Value = Round> {
    let steps = proptest::collection::vec(step(), 1..5);
    let killed = prop::option::weighted(KILLED, 0..4_usize);
    (steps, killed).prop_map(|(steps, killed)| Round { steps, killed })
}
