//! Protection against slow and failing backends: validated settings.

use std::time::Duration;

use vmcp_crds::config::{BreakerConfig, ConcurrencyConfig, HealthConfig};

/// Settings that confine the failures of one backend to that backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResilienceSettings {
    /// Circuit breaker for its calls.
    pub breaker: BreakerSettings,
    /// Limit of its concurrent calls.
    pub concurrency: ConcurrencySettings,
    /// Periodic probes of its health.
    pub health: HealthSettings,
}

/// Settings of the periodic health probes of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// Time between two probes.
    pub interval: Duration,
    /// How long the response to a probe may take.
    pub timeout: Duration,
    /// Consecutive failures after which the backend is unavailable; at least one.
    pub unhealthy_after: u32,
}

/// Settings of the circuit breaker of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Consecutive failures after which the breaker opens. 0 disables it.
    pub failures: u32,
    /// Time for which the breaker stays open before it lets a call through.
    pub open_for: Duration,
}

/// Limit of the concurrent calls to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConcurrencySettings {
    /// Most concurrent calls; at least one.
    pub limit: usize,
    /// Most calls that wait for a permit.
    pub queue: usize,
    /// How long a call waits for a permit.
    pub wait: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        (&BreakerConfig::default()).into()
    }
}

impl Default for ConcurrencySettings {
    fn default() -> Self {
        (&ConcurrencyConfig::default()).into()
    }
}

impl Default for HealthSettings {
    fn default() -> Self {
        (&HealthConfig::default()).into()
    }
}

impl From<&HealthConfig> for HealthSettings {
    fn from(raw: &HealthConfig) -> Self {
        Self {
            interval: raw.interval.get(),
            timeout: raw.timeout.get(),
            unhealthy_after: raw.unhealthy_after,
        }
    }
}

impl From<&BreakerConfig> for BreakerSettings {
    fn from(raw: &BreakerConfig) -> Self {
        Self {
            failures: raw.failures,
            open_for: raw.open_for.get(),
        }
    }
}

impl From<&ConcurrencyConfig> for ConcurrencySettings {
    fn from(raw: &ConcurrencyConfig) -> Self {
        Self {
            limit: raw.limit as usize,
            queue: raw.queue as usize,
            wait: raw.wait.get(),
        }
    }
}
