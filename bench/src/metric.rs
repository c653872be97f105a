//! Metrics: what was measured, what is allowed, and whether it passed.

use serde::Serialize;

/// One metric.
#[derive(Clone, Debug, Serialize)]
pub struct Metric {
    /// Its name.
    #[serde(rename = "metric")]
    pub name: &'static str,
    /// What was measured: the median of the repeats.
    pub value: f64,
    /// In what.
    pub unit: &'static str,
    /// What is allowed, for example `<= 1.6`.
    pub bound: String,
    /// Whether the value is.
    pub passed: bool,
    /// What it is made of: for example `direct 31.0, baseline 62.1, gateway 80.7 us`.
    #[serde(skip)]
    pub parts: String,
    /// Whether the run is void when it does not hold: it says that the bench itself was disturbed.
    #[serde(skip)]
    pub invalidates: bool,
}

/// What a metric may be at most, or at least.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// No more than this.
    AtMost(f64),
    /// Less than this.
    Below(f64),
    /// No less than this.
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
    /// A metric with its verdict.
    #[must_use]
    pub fn new(name: &'static str, value: f64, unit: &'static str, bound: Bound, parts: String) -> Self {
        Self {
            name,
            // Three digits behind the point are more than any of this repeats.
            value: (value * 1000.0).round() / 1000.0,
            unit,
            bound: bound.text(),
            passed: bound.allows(value),
            parts,
            invalidates: false,
        }
    }

    /// The same, as a condition of the whole run.
    #[must_use]
    pub fn voiding(self) -> Self {
        Self {
            invalidates: true,
            ..self
        }
    }
}

/// The metrics as a table for people.
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

    /// A bound is part of what it allows and nothing measured is never allowed.
    #[test]
    fn bound_is_allowed_and_missing_value_is_not() {
        let passed = |value, bound| Metric::new("x", value, "x", bound, String::new()).passed;
        assert!(passed(1.6, Bound::AtMost(1.6)) && !passed(1.601, Bound::AtMost(1.6)));
        assert!(passed(0.75, Bound::AtLeast(0.75)) && !passed(0.74, Bound::AtLeast(0.75)));
        assert!(!passed(3.0, Bound::Below(3.0)) && passed(2.99, Bound::Below(3.0)));
        assert!(!passed(f64::NAN, Bound::AtMost(1.6)) && !passed(f64::NAN, Bound::AtLeast(0.75)));
    }

    #[test]
    fn a_figure_is_one_line_of_json() {
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
