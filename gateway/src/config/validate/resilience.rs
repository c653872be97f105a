//! Converts the settings of the protection against slow and failing backends.

use vmcp_crds::config::BackendConfig;

use crate::config::ResilienceSettings;

/// The settings of one backend, which [`BackendConfig::check`] has validated.
pub(super) fn resilience(raw: &BackendConfig) -> ResilienceSettings {
    ResilienceSettings {
        breaker: (&raw.breaker).into(),
        concurrency: (&raw.concurrency).into(),
        health: (&raw.health).into(),
    }
}
