//! The process and what all of its parts use: tasks, time, signals, drain, rate limits, the body of a request.

pub(super) mod clock;
pub(super) mod compute;
pub mod drain;
pub(super) mod fair_queue;
pub mod huge_pages;
pub(super) mod incoming_body;
pub(super) mod poll_budget;
pub(super) mod random;
pub(super) mod rate_limit;
pub mod readiness;
pub mod signals;
pub(super) mod single_flight;
pub(super) mod step_counter;
pub mod tasks;
pub(super) mod truncate;

/// An error of any type. Inside a response body it ends the connection, which tells the client that the response is incomplete.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
