//! What keeps a backend that is slow or dead from being felt anywhere else, validated.

use std::time::Duration;

use vmcp_crds::config::{BreakerConfig, ConcurrencyConfig, HealthConfig};

/// What keeps one backend's troubles its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResilienceSettings {
    /// When calls are refused at once.
    pub breaker: BreakerSettings,
    /// How many calls may run.
    pub concurrency: ConcurrencySettings,
    /// How it is looked after.
    pub health: HealthSettings,
}

/// How the gateway finds out whether a backend lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// How often it is probed.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// After so many failures in a row it is unavailable; at least one.
    pub unhealthy_after: u32,
}

/// When calls to a backend are refused at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// After so many failures in a row; 0 is never.
    pub failures: u32,
    /// For how long.
    pub open_for: Duration,
}

/// How many calls may run at a backend at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConcurrencySettings {
    /// How many run; at least one.
    pub limit: usize,
    /// How many more wait.
    pub queue: usize,
    /// How long they wait.
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
