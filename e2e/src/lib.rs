//! The harness of the tests that need more than one process: real gateways, a real Redis, real MCP servers, a real client.
//!
//! Everything that is started here is a child process on a free loopback port, and ends with the value that stands for it.

pub mod balancer;
pub mod binaries;
pub mod client;
pub mod conformance;
pub mod conforming;
pub mod differences;
pub mod fixture;
pub mod gateway;
pub mod hostile;
pub mod issuer;
pub mod load;
pub mod mount;
pub mod providers;
pub mod proxy;
pub mod raw;
pub mod recorder;
pub mod recording_backend;
pub mod records;
pub mod redis;
pub mod rendered;
pub mod replicas;
pub mod scripted_server;
pub mod stream;
pub mod third_party;
pub mod wait;

pub use vmcp_peers::ports;
