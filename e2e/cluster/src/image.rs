//! Container images made of files, without a container engine, a registry or a network.
//!
//! An image is a tar of a file tree with a description, in the format of `docker save`, which every container runtime
//! imports. A tree is a program with the libraries that it is linked to, or an installed package with its interpreter.

mod archive;
mod command;
mod libraries;
mod ours;
mod theirs;

pub use archive::{Config, Image};
pub(crate) use command::default_output;
pub use command::{Args, Name};
pub use ours::{Profile, ours};
pub use theirs::{everything, redis};

/// The user that the images run as: it owns nothing.
pub(crate) const NOBODY: u32 = 65532;
