//! Bytes to messages and back: JSON-RPC, server-sent events, header names, protocol revisions.
//!
//! Nothing here knows a session or a backend, and nothing outside knows how a message is framed.

// Strangers send what is read here. None of it may make a place overflow, or be looked for where it is not.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

mod client_description;
pub mod correlation;
pub(crate) mod error_code;
pub(crate) mod fast_path;
pub(crate) mod header_names;
mod inspected_keys;
pub mod item_schema;
pub mod jsonrpc;
pub mod meta;
pub(crate) mod method;
pub mod object_edit;
pub mod params;
pub mod revision;
mod scan;
pub mod splice;
pub mod sse;
