//! The HTTP server: connections, invalid requests, and clients that stop reading.

pub(super) mod parse_error;
pub(super) mod server;
pub(super) mod write_deadline;
