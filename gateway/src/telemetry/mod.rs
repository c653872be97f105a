//! Logs, metrics and request ids.

pub mod logs;
pub mod metrics;
pub mod request_id;

pub use metrics::Metrics;
