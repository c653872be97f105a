//! The contracts of vmcp, and nothing else.
//!
//! [`config`] is the file that the operator writes and the gateway reads. It is the only thing that the two
//! share, so that a field which one side writes and the other does not know cannot exist.

pub mod config;
