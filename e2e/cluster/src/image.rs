//! Builds container images from files, without a container engine, a registry or a network.
//!
//! An image is a tar file in the format of `docker save`, which every container runtime can import. It contains a program
//! with its shared libraries, or an installed package with its interpreter.

mod archive;
mod args;
mod libraries;
mod ours;
mod theirs;

pub use archive::{Config, Image};
pub(crate) use args::default_output;
pub use args::{Args, Name};
pub use ours::{Profile, ours, previous};
pub use theirs::{everything, redis};

/// The user id that the images run as. It owns no files.
pub(crate) const NOBODY: u32 = 65532;
