//! The harness of tests that need several processes: real gateways, a real Redis, real MCP servers and real clients. Start with
//! [`harness::Harness`].
//!
//! Every process listens on a free loopback port, and ends when its value is dropped.

pub mod balancer;
pub mod binaries;
pub mod client;
pub mod conformance_suite;
pub mod conforming;
pub mod counting_session;
pub mod desktop_programs;
pub mod differences;
pub mod gateway;
pub mod harness;
pub mod hostile;
pub mod http_client;
pub mod issuer;
pub mod listener;
pub mod load;
pub mod mount;
pub mod providers;
pub mod proxy;
pub mod recorder;
pub mod recording_backend;
pub mod records;
pub mod redis;
pub mod rendered;
pub mod scripted_server;
pub mod stdio_servers;
pub mod stream;
pub mod test_server;
pub mod third_party;
pub mod wait;

pub use vmcp_external::ports;
