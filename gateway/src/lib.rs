//! The MCP gateway of vmcp: many MCP servers as one endpoint, with sessions that outlive the process.
//!
//! The layers are `frontend -> session -> core -> catalog -> backend -> mcp`. A layer may only use layers to its right. `admin`, `app` and
//! `reload` are outside the layers: they build, inspect and change them. The other modules are helpers that all layers may use, such as
//! `config`, `runtime` and `budget`, in which all code that buffers bytes of peers reserves memory. `tests/architecture` enforces these
//! rules.

pub mod admin;
pub mod app;
pub mod args;
pub mod backend;
pub mod bridge;
pub mod budget;
pub mod commands;
pub mod config;
pub mod core;
pub mod frontend;
pub mod install;
pub mod session;
pub mod supervisor;
pub mod telemetry;
pub mod version;

pub mod catalog;
mod certificates;
mod http;
pub mod import;
pub mod mcp;
pub mod preflight;
mod reload;
pub mod runtime;
