//! What the process says of itself: logs and metrics.

pub mod logs;
mod metrics;

pub use metrics::Metrics;
