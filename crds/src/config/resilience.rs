//! Isolation of slow or failed backends: circuit breaker, concurrency limit, health checks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;
use super::rules::range;

/// Circuit breaker of a backend. A call counts as failed if the connection cannot be opened or breaks, if the backend does not begin to
/// respond in time, or if it responds with an HTTP status of 500 or above. Results with `isError`, JSON-RPC errors and all other HTTP
/// statuses do not count as failures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BreakerConfig {
    /// Number of consecutive failed calls after which the breaker opens. While it is open, calls fail at once with an error that says
    /// that a retry is safe. `0` disables the breaker.
    #[schemars(extend("default" = default_failures()))]
    #[serde(default = "default_failures", skip_serializing_if = "is_default_failures")]
    pub failures: u32,
    /// Time for which the breaker stays open, from `100ms` to `1h`. Then one trial call is sent, which closes the breaker or opens it
    /// again. A health check that succeeds again allows the trial call earlier.
    #[schemars(
        extend("default" = default_open_for().to_string()),
        extend("x-kubernetes-validations" = range::BREAKER_OPEN_TIME.cel())
    )]
    #[serde(default = "default_open_for", skip_serializing_if = "is_default_open_for")]
    pub open_for: Duration,
}

/// Limit on concurrent calls to a backend, for each gateway process. A call counts until its response is complete, and a stream as long
/// as it is open. The limit and the queue of one backend do not affect other backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConcurrencyConfig {
    /// Maximum number of concurrent calls, from 1 to 100000.
    #[schemars(range(min = 1, max = 100_000), extend("default" = default_limit()))]
    #[serde(default = "default_limit", skip_serializing_if = "is_default_limit")]
    pub limit: u32,
    /// Maximum number of waiting calls, at most 100000. Further calls are answered at once with status 503 and `Retry-After`.
    #[schemars(range(max = 100_000), extend("default" = default_queue()))]
    #[serde(default = "default_queue", skip_serializing_if = "is_default_queue")]
    pub queue: u32,
    /// Maximum time that a call waits, at most `1m`. After that it is answered with status 503 and `Retry-After`.
    #[schemars(
        extend("default" = default_wait().to_string()),
        extend("x-kubernetes-validations" = range::PERMIT_WAIT.cel())
    )]
    #[serde(default = "default_wait", skip_serializing_if = "is_default_wait")]
    pub wait: Duration,
}

/// Health checks of a backend. The gateway sends a `ping`, which every server must answer, in its own session at the backend, and opens
/// that session if necessary. Every response is a sign of life, also a rejection (401, 403, an error). Failures are the same as for the
/// circuit breaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthConfig {
    /// Interval of the health checks, from `100ms` to `1h`. After a failure the gateway checks more often, so that it notices a
    /// recovered backend within this interval. A failed call triggers a check at once.
    #[schemars(
        extend("default" = default_interval().to_string()),
        extend("x-kubernetes-validations" = range::PROBE_INTERVAL.cel())
    )]
    #[serde(default = "default_interval", skip_serializing_if = "is_default_interval")]
    pub interval: Duration,
    /// Time limit of a health check, from `10ms` to `1m`.
    #[schemars(
        extend("default" = default_timeout().to_string()),
        extend("x-kubernetes-validations" = range::PROBE_TIMEOUT.cel())
    )]
    #[serde(default = "default_timeout", skip_serializing_if = "is_default_timeout")]
    pub timeout: Duration,
    /// Number of consecutive failures, at least 1, after which the backend's health changes from `degraded` to `unavailable`. `/status` and
    /// `/metrics` report it, and with `aggregation.failureMode: hide` its items are removed from the lists. One success makes the
    /// backend `healthy` again.
    #[schemars(range(min = 1), extend("default" = default_unhealthy_after()))]
    #[serde(
        default = "default_unhealthy_after",
        skip_serializing_if = "is_default_unhealthy_after"
    )]
    pub unhealthy_after: u32,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            interval: default_interval(),
            timeout: default_timeout(),
            unhealthy_after: default_unhealthy_after(),
        }
    }
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: default_failures(),
            open_for: default_open_for(),
        }
    }
}

impl Default for ConcurrencyConfig {
    fn default() -> Self {
        Self {
            limit: default_limit(),
            queue: default_queue(),
            wait: default_wait(),
        }
    }
}

fn default_interval() -> Duration {
    Duration::from_secs(10)
}

fn default_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_unhealthy_after() -> u32 {
    3
}

fn is_default_interval(interval: &Duration) -> bool {
    *interval == default_interval()
}

fn is_default_timeout(timeout: &Duration) -> bool {
    *timeout == default_timeout()
}

fn is_default_unhealthy_after(failures: &u32) -> bool {
    *failures == default_unhealthy_after()
}

fn default_failures() -> u32 {
    5
}

fn default_open_for() -> Duration {
    Duration::from_secs(10)
}

fn default_limit() -> u32 {
    512
}

fn default_queue() -> u32 {
    128
}

fn default_wait() -> Duration {
    Duration::from_secs(1)
}

fn is_default_failures(failures: &u32) -> bool {
    *failures == default_failures()
}

fn is_default_open_for(open_for: &Duration) -> bool {
    *open_for == default_open_for()
}

fn is_default_limit(limit: &u32) -> bool {
    *limit == default_limit()
}

fn is_default_queue(queue: &u32) -> bool {
    *queue == default_queue()
}

fn is_default_wait(wait: &Duration) -> bool {
    *wait == default_wait()
}
