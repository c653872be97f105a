//! Ranges of durations, which the gateway checks in code and the API server in CEL, in the same words.

use serde_json::{Value as Json, json};

use crate::config::{Duration, cel};

/// The durations that a field allows. Both bounds are inclusive.
#[derive(Clone, Copy, Debug)]
pub struct DurationRange {
    minimum: Option<Duration>,
    maximum: Option<Duration>,
}

/// Time limits of connections and calls. 0 is rejected because it does not mean "unlimited".
pub const TIMEOUT: DurationRange = DurationRange::millis(1, 24 * 60 * 60 * 1000);
/// `breaker.openFor`.
pub const BREAKER_OPEN_TIME: DurationRange = DurationRange::millis(100, 60 * 60 * 1000);
/// `health.interval`.
pub const PROBE_INTERVAL: DurationRange = DurationRange::millis(100, 60 * 60 * 1000);
/// `health.timeout`.
pub const PROBE_TIMEOUT: DurationRange = DurationRange::millis(10, 60 * 1000);
/// `concurrency.wait`.
pub const PERMIT_WAIT: DurationRange = DurationRange::at_most(60 * 1000);
/// `aggregation.refresh`. More frequent requests would be a load of their own.
pub const REFRESH: DurationRange = DurationRange::at_least(1000);
/// `incomingAuth.oidc.clockLeeway`.
pub const CLOCK_LEEWAY: DurationRange = DurationRange::at_most(5 * 60 * 1000);
/// `incomingAuth.oidc.keyRefresh`.
pub const KEY_REFRESH: DurationRange = DurationRange::at_least(1000);
/// `idleTimeout` of a server's processes.
pub const PROCESS_IDLE: DurationRange = DurationRange::millis(1000, 24 * 60 * 60 * 1000);
/// `listeners.idleTimeout`.
pub const IDLE_TIMEOUT: DurationRange = DurationRange::millis(1000, 24 * 60 * 60 * 1000);

impl DurationRange {
    const fn millis(minimum: u64, maximum: u64) -> Self {
        Self {
            minimum: Some(Duration::from_millis(minimum)),
            maximum: Some(Duration::from_millis(maximum)),
        }
    }

    const fn at_least(minimum: u64) -> Self {
        Self {
            minimum: Some(Duration::from_millis(minimum)),
            maximum: None,
        }
    }

    const fn at_most(maximum: u64) -> Self {
        Self {
            minimum: None,
            maximum: Some(Duration::from_millis(maximum)),
        }
    }

    /// Checks that `value` is in the range.
    ///
    /// # Errors
    /// What was found and what is allowed.
    pub fn check(self, value: Duration) -> Result<(), String> {
        let is_long_enough = self.minimum.is_none_or(|minimum| value >= minimum);
        let is_short_enough = self.maximum.is_none_or(|maximum| value <= maximum);
        if is_long_enough && is_short_enough {
            return Ok(());
        }
        Err(format!("found {value}; {}", self.allowed()))
    }

    /// Describes what is allowed.
    fn allowed(self) -> String {
        match (self.minimum, self.maximum) {
            (Some(minimum), Some(maximum)) => format!("allowed are {minimum} to {maximum}"),
            (Some(minimum), None) => format!("the minimum is {minimum}"),
            (None, Some(maximum)) => format!("the maximum is {maximum}"),
            (None, None) => "every duration is allowed".to_owned(),
        }
    }

    /// The range as rules for the API server, with the rule for the format of a duration.
    pub(crate) fn cel(self) -> Json {
        self.rules("self", |range| range)
    }

    /// [`DurationRange::cel`] for the values of a map.
    pub(in crate::config) fn cel_of_values(self) -> Json {
        self.rules("self[key]", |range| format!("self.all(key, {range})"))
    }

    fn rules(self, value: &str, whole: impl Fn(String) -> String) -> Json {
        let minimum = self
            .minimum
            .map(|minimum| format!("duration({value}) >= duration('{minimum}')"));
        let maximum = self
            .maximum
            .map(|maximum| format!("duration({value}) <= duration('{maximum}')"));
        let bounds: Vec<String> = minimum.into_iter().chain(maximum).collect();
        // A value that is not a duration breaks the rule about the format only.
        let is_duration = cel::is_duration(value);
        let range = whole(format!("!({is_duration}) || {}", bounds.join(" && ")));
        let format = whole(is_duration);
        json!([
            {"rule": format, "message": cel::DURATION_EXPECTED},
            {"rule": range, "message": self.allowed()},
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_outside_range_is_rejected_with_bounds() {
        let minute = Duration::from_secs(60);
        assert_eq!(PROBE_TIMEOUT.check(minute), Ok(()));
        for (range, value, expected) in [
            (
                PROBE_TIMEOUT,
                Duration::from_millis(9),
                "found 9ms; allowed are 10ms to 1m",
            ),
            (
                PERMIT_WAIT,
                Duration::from_secs(61),
                "found 1m1s; the maximum is 1m",
            ),
            (
                REFRESH,
                Duration::from_millis(999),
                "found 999ms; the minimum is 1s",
            ),
        ] {
            assert_eq!(range.check(value), Err(expected.to_owned()));
        }
    }

    #[test]
    fn rules_have_the_bounds_and_the_words_of_the_check() {
        let rules = PROBE_TIMEOUT.cel().to_string();
        assert!(
            rules.contains("duration(self) >= duration('10ms') && duration(self) <= duration('1m')"),
            "{rules}"
        );
        assert!(rules.contains("allowed are 10ms to 1m"), "{rules}");
    }
}
