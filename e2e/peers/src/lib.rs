//! The programs that tests and demos run and nobody here wrote: found on the machine or installed, and started.
//!
//! Debian's packages are installed with apt when we are root. Everything else goes into a cache outside the repository
//! ([`cache::dir`]), in a folder whose name is the version of what it holds, so that a second run finds it and an upgrade
//! never meets the old one.
//!
//! A test that needs one of them asks [`left_out`] first:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! if vmcp_peers::left_out("npm") {
//!     return Ok(());
//! }
//! let everything = vmcp_peers::server::everything()?;
//! # Ok(())
//! # }
//! ```

pub mod cache;
pub mod cargo_tools;
pub mod client;
pub mod confined;
pub mod debian;
pub mod go_sdk;
pub mod hosts;
mod left_out;
#[cfg(test)]
mod newer_release;
pub mod npm;
pub mod parsers;
mod path;
pub mod ports;
mod probe;
pub mod process;
mod progress;
pub mod python;
pub mod redis;
pub mod run;
pub mod server;
pub mod step;

pub use left_out::{LEFT_OUT, left_out};
pub use step::step;
