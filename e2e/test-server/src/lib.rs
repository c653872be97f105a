//! The MCP server that tests put behind the gateway.
//!
//! It answers both eras of the protocol through rmcp, an implementation that the gateway does not share, and
//! offers every name that the official conformance suite requires. For tests it also has tools
//! whose answers show which upstream session and which headers a call arrived with, counts of everything that
//! arrived, and faults that are switched on and off from an admin port.
//!
//! Tests that need a process run the `vmcp-test-server` binary; [`TestServer::start`] is the same thing in-process.

#![expect(
    deprecated,
    reason = "logging, sampling, roots and resources/subscribe are deprecated, and are what older clients use"
)]

mod admin;
mod args;
mod body;
mod broadcast;
mod events;
mod fault_injection;
mod fault_layer;
mod faults;
mod framing;
mod input_required;
mod list_edits;
mod listen;
mod prompts;
mod reply;
mod resources;
mod seen;
mod server;
mod server_requests;
mod session;
mod sessions;
mod sse;
mod stats;
mod streams;
mod test_server;
mod tools;

pub use args::{Args, Refusal};
pub use test_server::{TestServer, serve_stdio};
