//! The MCP gateway of vmcp: many MCP servers as one endpoint, with sessions that outlive the process.
//!
//! Layers name only what is to their right: `frontend -> session -> core -> backend -> wire`. `config`, `admin` and `app` stand
//! outside: they build and inspect. `budget` belongs to all: whoever buffers bytes reserves them there. `tests/architecture` keeps it
//! so.

pub mod admin;
pub mod app;
pub mod args;
pub mod backend;
pub mod budget;
pub mod config;
pub mod core;
mod delivery;
pub mod drain;
mod end_by;
pub mod frontend;
pub mod huge_pages;
pub mod mounted;
pub mod readiness;
pub mod session;
pub mod tasks;
pub mod telemetry;
pub mod termination;
pub mod version;
pub mod wire;

mod certificates;
mod clock;
mod compute;
mod fair_queue;
mod patience;
mod random;
mod rate;
mod refused;
mod server;
mod steps;
mod text;
mod turn;
