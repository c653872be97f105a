//! Tests the session store for linearizability: three processes run generated operations at the same time on a real Redis, which loses its
//! data in between. There must be one order of the operations in which a small sequential model has the same outcomes.
//!
//! In each round some operations start together, each on its own connection, and the test waits for all of them. The order in which Redis
//! executed them is unknown, so every order is tried: the round is correct if the model explains all outcomes in one of them. If several
//! orders do, the test keeps all end states, and the next round may follow from any. Between rounds every client reads every session, which
//! usually leaves one state.

mod client;
mod held;
mod model;
mod operation;
mod runner;
mod schedule;
mod session;
mod step;

use anyhow::Context as _;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::held::Principal;
use crate::runner::Runner;
use crate::step::round;
use vmcp_external::requires;

const CLIENTS: usize = 3;
const SESSIONS: usize = 3;
const BACKENDS: [&str; 2] = ["x", "y"];
const RESOURCES: [&str; 2] = ["a://b", "c://d"];
const TAG: &str = "{vmcp:tests/model}";
/// The limit of the virtual server, where it is limited.
const SERVER_LIMIT: u32 = 2;
/// The limit of a principal, where it is limited.
const PRINCIPAL_LIMIT: u32 = 1;
/// The principal of each session.
const PRINCIPALS: [Principal; SESSIONS] = [Principal(3), Principal(4), Principal(3)];

/// The outcomes of three concurrent processes, with losses of the data in between, are explained by one order of the operations.
#[requires(redis)]
#[test]
fn concurrent_histories_are_linearizable() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let entered = runtime.enter();
    let runner = std::cell::RefCell::new(Runner::start()?);
    drop(entered);
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    let first_failure = std::cell::OnceCell::new();
    let tested = TestRunner::new(config).run(&proptest::collection::vec(round(), 1..20), |rounds| {
        let outcome = runtime.block_on(runner.borrow_mut().play(&rounds));
        outcome.map_err(|error| {
            let error = format!("{error:#}");
            first_failure.get_or_init(|| error.clone());
            TestCaseError::fail(error)
        })
    });
    // What happens at once differs from run to run, so that a smaller input may show nothing any more.
    tested.with_context(|| {
        format!(
            "first failure: {}",
            first_failure.get().map_or("none", String::as_str)
        )
    })?;
    let runner = runner.borrow();
    assert!(runner.kills > 0, "Redis was never killed");
    assert_eq!(runner.limits.len(), 2, "limits met: {:?}", runner.limits);
    Ok(())
}
