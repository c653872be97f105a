//! Measures the cost of the gateway, as metrics with bounds.
//!
//! Every metric is a ratio or a difference between the gateway and a bare hyper proxy in the same run on the same machine. No gateway with
//! this HTTP library can cost less than the proxy, and a slow or busy machine slows down both. The measured process runs alone on one core.
//! The backend and the load share another one, so that they do not take time from it.

pub mod backend;
pub mod baseline;
pub mod cores;
pub mod load;
pub mod metric;
pub mod process;
pub mod samples;
pub mod scenario;
mod serve;
