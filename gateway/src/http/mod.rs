//! The HTTP server: connections, TLS, both versions of HTTP, invalid requests, and clients that stop reading.

mod http2;
pub(super) mod listener_tls;
pub(super) mod parse_error;
pub(super) mod server;
mod unsent;
pub(super) mod write_deadline;
