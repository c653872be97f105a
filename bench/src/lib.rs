//! What the gateway costs, as metrics with bounds.
//!
//! Every metric is a ratio, or a difference, between the gateway and a bare hyper proxy in the same run on the same machine: the proxy is
//! the baseline that no gateway on this HTTP library can go below, and a slow or busy machine slows both. What is measured runs alone on one
//! core; the backend and the load share another, so that neither takes time from it.

pub mod backend;
pub mod baseline;
pub mod cores;
pub mod load;
pub mod metric;
pub mod process;
pub mod samples;
pub mod scenario;
mod serve;
