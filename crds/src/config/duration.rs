//! Durations with units, such as `250ms`, `5s`, `30m` or `1h30m`.

use std::fmt;
use std::str::FromStr;
use std::time;

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::cel;
use crate::config::schema_shape::quoted;

/// A duration that is written with units, such as `250ms`, `5s`, `30m` or `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(time::Duration);

impl Duration {
    /// A duration of whole seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(time::Duration::from_secs(secs))
    }

    /// A duration of whole milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(time::Duration::from_millis(millis))
    }

    /// The duration as the standard library's type.
    #[must_use]
    pub const fn get(self) -> time::Duration {
        self.0
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let explain = || {
            let expected = cel::DURATION_EXPECTED;
            format!("found {}; {expected}", quoted(text))
        };
        let signed: SignedDuration = text.parse().map_err(|_| explain())?;
        time::Duration::try_from(signed).map(Self).map_err(|_| explain())
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, millis) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
            let count = rest.checked_div(millis).unwrap_or_default();
            if count > 0 {
                write!(f, "{count}{unit}")?;
                rest = rest.checked_rem(millis).unwrap_or_default();
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "a duration with units",
            "examples": ["250ms", "5s", "30m", "1h30m"],
            "maxLength": cel::MAX_DURATION_CHARS,
            "x-kubernetes-validations": [cel::rule(&cel::is_duration("self"), cel::DURATION_EXPECTED)],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Duration;

    #[test]
    fn duration_round_trips_through_text() {
        for text in ["250ms", "5s", "30m", "24h", "1h30m", "1m500ms", "0s"] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn missing_unit_and_negative_duration_are_rejected() {
        for text in ["5", "-5s", "soon", ""] {
            let error = text.parse::<Duration>().unwrap_err();
            assert!(error.contains("for example 250ms"), "{error}");
        }
    }
}
