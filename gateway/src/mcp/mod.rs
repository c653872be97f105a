//! The wire format of MCP: JSON-RPC messages, server-sent events, header names, protocol revisions.
//!
//! This module knows no sessions and no backends, and no other module knows how a message is framed.

// This input comes from untrusted clients and backends: no arithmetic may overflow, and no index may panic.
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
