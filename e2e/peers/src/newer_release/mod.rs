//! Tests of the installers on the day after: the registry has a release that is newer than the lock.
//!
//! The registries are local: an installer that would resolve finds the newer release there, and the tests see it.

mod cargo;
mod npm;
mod python;
