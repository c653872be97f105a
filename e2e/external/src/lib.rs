//! Third-party programs that tests and demos run: finds them on the machine or installs them, and starts them.
//!
//! Debian's packages are installed with apt when we are root. Everything else goes into a cache outside the repository
//! ([`cache::dir`]), in a folder named after its version, so that a second run finds it, and versions do
//! not mix.
//!
//! A test that needs one of them is marked with [`requires`]. Where the program is unavailable, the test runner reports the test as ignored:
//!
//! ```no_run
//! use vmcp_external::requires;
//!
//! #[requires(npm)]
//! #[test]
//! fn everything_answers() -> anyhow::Result<()> {
//!     let everything = vmcp_external::server::everything()?;
//!     // ...
//!     Ok(())
//! }
//! ```

pub mod cache;
pub mod cargo_tools;
pub mod client;
pub mod confined;
pub mod debian;
pub mod go_sdk;
pub mod hosts;
#[cfg(test)]
mod newer_release;
pub mod npm;
pub mod parsers;
mod path;
pub mod ports;
pub mod previous_commit;
mod probe;
pub mod process;
mod progress;
pub mod python;
pub mod redis;
pub mod run;
pub mod server;
pub mod step;
mod unavailable;

pub use step::step;
pub use unavailable::{UNAVAILABLE, is_unavailable};
pub use vmcp_requires::requires;
