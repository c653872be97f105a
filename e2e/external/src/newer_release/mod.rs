//! Tests that installers ignore a release that is newer than the lock file.
//!
//! The registries are local. An installer that resolved versions would find the newer release there.

mod cargo_registry;
mod npm_registry;
mod python_index;
