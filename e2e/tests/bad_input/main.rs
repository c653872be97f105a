//! Every fault of a client or a backend gets a response that names it, and disturbs no other client.
//!
//! Each table has one row per fault. The rows run one by one, and then all together against a gateway that other clients use.

mod backend;
mod client;
mod gateways;
mod heads;
mod principal;
mod under_load;

use gateways::Gateways;

/// Every mistake of a client gets a response that names it, and the session survives.
#[test]
fn every_client_fault_is_named_in_the_response() -> anyhow::Result<()> {
    let gateways = Gateways::start()?;
    client::check_all(&gateways)?;
    gateways.is_well()
}

/// Every fault of a backend gets a response that names it, and other tools work.
#[test]
fn every_backend_fault_is_named_in_the_response() -> anyhow::Result<()> {
    let gateways = Gateways::start()?;
    backend::check_all(&gateways)?;
    gateways.is_well()
}
