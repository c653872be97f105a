//! What keeps a backend that is slow or dead from being felt anywhere else.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// When calls to a backend are refused at once, because it has not been reachable. A call fails in this sense when no connection can
/// be made or it breaks, when the backend does not begin to answer in time, or when it answers with an HTTP status of 500 or above.
/// Results that say `isError`, JSON-RPC errors and every other HTTP status are answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BreakerConfig {
    /// After so many failed calls in a row the breaker opens: calls are answered at once with an error that says that trying again is
    /// safe. `0` turns the breaker off.
    #[schemars(extend("default" = default_failures()))]
    #[serde(default = "default_failures", skip_serializing_if = "is_default_failures")]
    pub failures: u32,
    /// How long it stays open, from `100ms` to `1h`. Then one call is let through, and closes it or opens it again. A look at
    /// the backend that succeeds after one that failed lets that call through sooner.
    #[schemars(extend("default" = default_open_for().to_string()))]
    #[serde(default = "default_open_for", skip_serializing_if = "is_default_open_for")]
    pub open_for: Duration,
}

/// How many calls may run at a backend at a time, in this process. A call runs until its answer has come whole, so that a stream
/// counts for as long as it is open. One backend's limit and queue concern no other backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConcurrencyConfig {
    /// How many calls may run, from 1 to 100000.
    #[schemars(range(min = 1, max = 100_000), extend("default" = default_limit()))]
    #[serde(default = "default_limit", skip_serializing_if = "is_default_limit")]
    pub limit: u32,
    /// How many calls may wait for one of them to end, at most 100000. Every further one is answered at once with status 503 and
    /// `Retry-After`.
    #[schemars(range(max = 100_000), extend("default" = default_queue()))]
    #[serde(default = "default_queue", skip_serializing_if = "is_default_queue")]
    pub queue: u32,
    /// How long a call may wait, at most `1m`. Then it is answered in the same way.
    #[schemars(extend("default" = default_wait().to_string()))]
    #[serde(default = "default_wait", skip_serializing_if = "is_default_wait")]
    pub wait: Duration,
}

/// How the gateway finds out whether a backend lives. In the gateway's own session there it sends a `ping`, which every server must answer;
/// where it has none, it opens one. Whatever is answered is a sign of life, a refusal (401, 403, an error) too; a failure is what the
/// breaker calls one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthConfig {
    /// How often it is probed, from `100ms` to `1h`. After a failure the gateway tries again sooner, and it never waits longer than
    /// this to find that the backend is back. A call that fails makes it look at once.
    #[schemars(extend("default" = default_interval().to_string()))]
    #[serde(default = "default_interval", skip_serializing_if = "is_default_interval")]
    pub interval: Duration,
    /// How long the answer to a probe may take, from `10ms` to `1m`.
    #[schemars(extend("default" = default_timeout().to_string()))]
    #[serde(default = "default_timeout", skip_serializing_if = "is_default_timeout")]
    pub timeout: Duration,
    /// After so many failures in a row, at least 1, the backend is `unavailable` and no longer `degraded`: `/status` and `/metrics` say so,
    /// and with `aggregation.failureMode: hide` its offers leave the lists. One success makes it `healthy` again.
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
