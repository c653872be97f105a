//! Figures: what was measured, what is allowed, and whether it holds.

use serde::Serialize;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Its name.
    #[serde(rename = "figure")]
    pub name: &'static str,
    /// What was measured: the median of the repeats.
    pub value: f64,
    /// In what.
    pub unit: &'static str,
    /// What is allowed, for example `<= 1.6`.
    pub bound: String,
    /// Whether the value is.
    pub holds: bool,
    /// What it is made of: for example `direct 31.0, floor 62.1, gateway 80.7 us`.
    #[serde(skip)]
    pub parts: String,
    /// Whether the run is void when it does not hold: it says that the bench itself was disturbed.
    #[serde(skip)]
    pub voids: bool,
}

/// What a figure may be at most, or at least.
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

impl Figure {
    /// A figure with its verdict.
    #[must_use]
    pub fn new(name: &'static str, value: f64, unit: &'static str, bound: Bound, parts: String) -> Self {
        Self {
            name,
            // Three digits behind the point are more than any of this repeats.
            value: (value * 1000.0).round() / 1000.0,
            unit,
            bound: bound.text(),
            holds: bound.allows(value),
            parts,
            voids: false,
        }
    }

    /// The same, as a condition of the whole run.
    #[must_use]
    pub fn voiding(self) -> Self {
        Self { voids: true, ..self }
    }
}

/// The figures as a table for people.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    let width = figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
    let line = |figure: &Figure| {
        let verdict = if figure.holds { "holds" } else { "FAILS" };
        format!(
            "{verdict}  {:width$}  {:>9.3} {:7}  {:8}  {}\n",
            figure.name, figure.value, figure.bound, figure.unit, figure.parts
        )
    };
    figures.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bound is part of what it allows and nothing measured is never allowed.
    #[test]
    fn bound_is_allowed_and_missing_value_is_not() {
        let holds = |value, bound| Figure::new("x", value, "x", bound, String::new()).holds;
        assert!(holds(1.6, Bound::AtMost(1.6)) && !holds(1.601, Bound::AtMost(1.6)));
        assert!(holds(0.75, Bound::AtLeast(0.75)) && !holds(0.74, Bound::AtLeast(0.75)));
        assert!(!holds(3.0, Bound::Below(3.0)) && holds(2.99, Bound::Below(3.0)));
        assert!(!holds(f64::NAN, Bound::AtMost(1.6)) && !holds(f64::NAN, Bound::AtLeast(0.75)));
    }

    #[test]
    fn a_figure_is_one_line_of_json() {
        let figure = Figure::new(
            "echo_1_added",
            1.25,
            "ratio",
            Bound::AtMost(1.6),
            "parts".to_owned(),
        );
        assert_eq!(
            serde_json::to_string(&figure).unwrap(),
            r#"{"figure":"echo_1_added","value":1.25,"unit":"ratio","bound":"<= 1.6","holds":true}"#
        );
    }
}
