//! The MCP gateway of vmcp: many MCP servers as one endpoint, with sessions that outlive the process.
//!
//! Layers name only what is to their right: `frontend -> session -> core -> catalog -> backend -> mcp`. `config`, `admin` and `app` stand
//! outside: they build and inspect. `budget` belongs to all: whoever buffers bytes reserves them there. `tests/architecture` keeps it
//! so.

pub mod admin;
pub mod app;
pub mod args;
pub mod backend;
pub mod budget;
pub mod config;
pub mod core;
pub mod frontend;
pub mod session;
pub mod telemetry;
pub mod version;

pub mod catalog;
mod certificates;
mod http;
pub mod mcp;
pub mod preflight;
pub mod runtime;
