//! Validates the protection against slow and failing backends.

use std::ops::RangeInclusive;
use std::time::Duration;

use vmcp_crds::config::BackendConfig;

use crate::config::ResilienceSettings;

const BREAKER_OPEN_TIMES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const PROBE_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const PROBE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const MAX_CALLS: u32 = 100_000;
const MAX_PERMIT_WAIT: Duration = Duration::from_secs(60);

/// Validates the settings of one backend. An error is the invalid field and the reason.
pub(super) fn resilience(raw: &BackendConfig) -> Result<ResilienceSettings, (&'static str, String)> {
    let (breaker, concurrency, health) = (&raw.breaker, &raw.concurrency, &raw.health);
    if !PROBE_INTERVALS.contains(&health.interval.get()) {
        let message = format!("found {}; allowed are 100ms to 1h", health.interval);
        return Err(("health.interval", message));
    }
    if !PROBE_TIMEOUTS.contains(&health.timeout.get()) {
        let message = format!("found {}; allowed are 10ms to 1m", health.timeout);
        return Err(("health.timeout", message));
    }
    if health.unhealthy_after == 0 {
        let message = "found 0; the minimum is 1".to_owned();
        return Err(("health.unhealthyAfter", message));
    }
    if !BREAKER_OPEN_TIMES.contains(&breaker.open_for.get()) {
        let message = format!("found {}; allowed are 100ms to 1h", breaker.open_for);
        return Err(("breaker.openFor", message));
    }
    if concurrency.limit == 0 || concurrency.limit > MAX_CALLS {
        let message = format!("found {}; allowed are 1 to {MAX_CALLS}", concurrency.limit);
        return Err(("concurrency.limit", message));
    }
    if concurrency.queue > MAX_CALLS {
        let message = format!("found {}; allowed are 0 to {MAX_CALLS}", concurrency.queue);
        return Err(("concurrency.queue", message));
    }
    if concurrency.wait.get() > MAX_PERMIT_WAIT {
        let message = format!("found {}; the maximum is 1m", concurrency.wait);
        return Err(("concurrency.wait", message));
    }
    Ok(ResilienceSettings {
        breaker: breaker.into(),
        concurrency: concurrency.into(),
        health: health.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_settings_are_rejected_with_field_and_value() {
        for (text, field, found) in [
            ("breaker: {openFor: 10ms}", "breaker.openFor", "10ms"),
            ("breaker: {openFor: 2h}", "breaker.openFor", "2h"),
            ("concurrency: {limit: 0}", "concurrency.limit", "found 0"),
            ("concurrency: {queue: 100001}", "concurrency.queue", "100001"),
            ("concurrency: {wait: 61s}", "concurrency.wait", "1m1s"),
            ("health: {interval: 10ms}", "health.interval", "10ms"),
            ("health: {timeout: 2m}", "health.timeout", "2m"),
            ("health: {unhealthyAfter: 0}", "health.unhealthyAfter", "found 0"),
        ] {
            let raw: BackendConfig =
                serde_yaml::from_str(&format!("{{name: a, url: 'http://a/mcp', {text}}}")).unwrap();
            let (at, message) = resilience(&raw).unwrap_err();
            assert!(at == field && message.contains(found), "{text}: {at}: {message}");
        }
        assert_eq!(
            resilience(&BackendConfig::default()),
            Ok(ResilienceSettings::default())
        );
    }
}
