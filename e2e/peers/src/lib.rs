//! The programs that tests and demos run and nobody here wrote: found on the machine or installed.
//!
//! Debian's packages are installed with apt when we are root. Everything else goes into a cache outside the repository
//! ([`cache::dir`]), in a folder whose name is the version of what it holds, so that a second run finds it and an upgrade
//! never meets the old one.

pub mod cache;
pub mod debian;
pub mod step;

pub use step::step;
