//! Metrics with their bounds.

use serde::Serialize;

/// The result of one measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Metric {
    /// Name of the metric.
    #[serde(rename = "metric")]
    pub name: &'static str,
    /// The median of the repeats.
    pub value: f64,
    /// Unit of the value.
    pub unit: &'static str,
    /// The bound as text, for example `<= 1.6`.
    pub bound: String,
    /// Whether the value is within the bound.
    pub passed: bool,
    /// The measured values that the metric is computed from, for example `direct 31.0, baseline 62.1, gateway 80.7 us`.
    #[serde(skip)]
    pub parts: String,
    /// Whether the run is invalid if this metric does not pass, because the bench itself was disturbed.
    #[serde(skip)]
    pub invalidates: bool,
}

/// The bound of a metric.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// The value must not be greater.
    AtMost(f64),
    /// The value must be less.
    Below(f64),
    /// The value must not be less.
    AtLeast(f64),
}

impl Bound {
    fn allows(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::Below(bound) => value < bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(bound) => format!("<= {bound}"),
            Self::Below(bound) => format!("< {bound}"),
            Self::AtLeast(bound) => format!(">= {bound}"),
        }
    }
}

impl Metric {
    /// Creates a metric, and compares `value` with `bound`.
    #[must_use]
    pub fn new(name: &'static str, value: f64, unit: &'static str, bound: Bound, parts: String) -> Self {
        Self {
            name,
            // Three decimal places exceed the precision of all measurements.
            value: (value * 1000.0).round() / 1000.0,
            unit,
            bound: bound.text(),
            passed: bound.allows(value),
            parts,
            invalidates: false,
        }
    }

    /// Makes the run invalid if this metric does not pass.
    #[must_use]
    pub fn invalidating(self) -> Self {
        Self {
            invalidates: true,
            ..self
        }
    }
}

/// Formats the metrics as a table.
#[must_use]
pub fn table(metrics: &[Metric]) -> String {
    let width = metrics.iter().map(|metric| metric.name.len()).max().unwrap_or(0);
    let line = |metric: &Metric| {
        let verdict = if metric.passed { "passed" } else { "FAILS" };
        format!(
            "{verdict}  {:width$}  {:>9.3} {:7}  {:8}  {}\n",
            metric.name, metric.value, metric.bound, metric.unit, metric.parts
        )
    };
    metrics.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inclusive bounds include their value, and NaN (no measurement) never passes.
    #[test]
    fn inclusive_bound_passes_and_missing_value_fails() {
        let passed = |value, bound| Metric::new("x", value, "x", bound, String::new()).passed;
        assert!(passed(1.6, Bound::AtMost(1.6)) && !passed(1.601, Bound::AtMost(1.6)));
        assert!(passed(0.75, Bound::AtLeast(0.75)) && !passed(0.74, Bound::AtLeast(0.75)));
        assert!(!passed(3.0, Bound::Below(3.0)) && passed(2.99, Bound::Below(3.0)));
        assert!(!passed(f64::NAN, Bound::AtMost(1.6)) && !passed(f64::NAN, Bound::AtLeast(0.75)));
    }

    #[test]
    fn metric_is_one_line_of_json() {
        let metric = Metric::new(
            "echo_1_added",
            1.25,
            "ratio",
            Bound::AtMost(1.6),
            "parts".to_owned(),
        );
        assert_eq!(
            serde_json::to_string(&metric).unwrap(),
            r#"{"metric":"echo_1_added","value":1.25,"unit":"ratio","bound":"<= 1.6","passed":true}"#
        );
    }
}
