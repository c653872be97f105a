//! Whatever three processes do at the same moment to the sessions in a real Redis, and whenever Redis loses its data: there is an order
//! of what they did in which each outcome is that of a model that fits on a page.
//!
//! Each round some operations are begun together, each by a client with a connection of its own, and are waited for. Which one Redis did
//! first nobody has seen, so that every order is tried: the round is right if the model explains all outcomes in one of them. Where it does
//! so in several, all the states in which they end are kept, and the next round may follow from any. Between rounds everybody reads every
//! session, which leaves one state as a rule.

mod client;
mod held;
mod model;
mod operation;
mod schedule;
mod session;
mod step;
mod world;

use anyhow::Context as _;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::held::Principal;
use crate::step::round;
use crate::world::World;

const CLIENTS: usize = 3;
const SESSIONS: usize = 3;
const BACKENDS: [&str; 2] = ["x", "y"];
const RESOURCES: [&str; 2] = ["a://b", "c://d"];
const TAG: &str = "{vmcp:tests/model}";
/// How many sessions there may be where the virtual server's number is limited.
const SERVER_LIMIT: u32 = 2;
/// How many sessions a principal may have where that is limited.
const PRINCIPAL_LIMIT: u32 = 1;
/// Whose session is at each place.
const PRINCIPALS: [Principal; SESSIONS] = [Principal(3), Principal(4), Principal(3)];

/// What three processes do at once and losses of the data in between are explained by one order.
#[test]
fn concurrent_histories_are_linearizable() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let entered = runtime.enter();
    let world = std::cell::RefCell::new(World::start()?);
    drop(entered);
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    let first_failure = std::cell::OnceCell::new();
    let tested = TestRunner::new(config).run(&proptest::collection::vec(round(), 1..20), |rounds| {
        let outcome = runtime.block_on(world.borrow_mut().play(&rounds));
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
    let world = world.borrow();
    assert!(world.kills > 0, "Redis was never killed");
    assert_eq!(world.limits.len(), 2, "limits met: {:?}", world.limits);
    Ok(())
}
