//! Whatever a client or a backend does wrong is answered with words that name the fault, and disturbs nobody else.
//!
//! Each table has one row per fault. They run one by one, and then all of them against a gateway that others are using.

mod backend;
mod client;
mod heads;
mod principal;
mod under_load;
mod world;

use world::World;

#[test]
fn each_fault_of_a_client_is_answered_with_its_name() -> anyhow::Result<()> {
    let world = World::start()?;
    client::check_all(&world)?;
    world.is_well()
}

#[test]
fn each_fault_of_a_backend_is_answered_with_its_name() -> anyhow::Result<()> {
    let world = World::start()?;
    backend::check_all(&world)?;
    world.is_well()
}
