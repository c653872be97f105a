//! Bytes to messages and back: JSON-RPC, server-sent events, header names, protocol revisions.
//!
//! Nothing here knows a session or a backend, and nothing outside knows how a message is framed.

pub(crate) mod code;
pub(crate) mod glance;
pub(crate) mod header;
mod inspected_keys;
pub mod jsonrpc;
pub mod mapped;
pub mod meta;
pub mod object;
pub mod params;
pub mod revision;
mod skip;
pub mod splice;
pub mod sse;
