//! What keeps a backend that is slow or dead from being felt anywhere else, validated.

use std::time::Duration;

use vmcp_crds::config::{BreakerConfig, ConcurrencyConfig};

/// What keeps one backend's troubles its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Isolation {
    /// When calls are refused at once.
    pub breaker: BreakerSettings,
    /// How many calls may run.
    pub concurrency: ConcurrencySettings,
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
