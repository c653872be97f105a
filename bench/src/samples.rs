//! Latency samples with exact percentiles.

use std::time::Duration;

/// The latencies of a number of calls. All samples are stored, so that percentiles are exact.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    nanos: Vec<u64>,
}

impl Samples {
    /// Adds the latency of one call.
    pub fn add(&mut self, latency: Duration) {
        self.nanos
            .push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds all samples of `other`.
    pub fn extend(&mut self, other: &Self) {
        self.nanos.extend_from_slice(&other.nanos);
    }

    /// The number of stored samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nanos.len()
    }

    /// Whether there are no samples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nanos.is_empty()
    }

    /// The percentile `percent` in microseconds, by the nearest-rank method. 0 without samples.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.nanos.len() * percent).div_ceil(100).max(1) - 1;
        let mut nanos = self.nanos.clone();
        if rank >= nanos.len() {
            return 0.0;
        }
        let (_, value, _) = nanos.select_nth_unstable(rank);
        Duration::from_nanos(*value).as_secs_f64() * 1e6
    }
}

/// The median of `values`. Without values it is NaN, which passes no bound.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact() {
        let mut samples = Samples::default();
        for micros in (1..=200).rev() {
            samples.add(Duration::from_micros(micros));
        }
        assert_eq!(samples.percentile(50).round(), 100.0);
        assert_eq!(samples.percentile(99).round(), 198.0);
        assert_eq!(samples.percentile(100).round(), 200.0);
        assert_eq!(Samples::default().percentile(50), 0.0);
    }

    #[test]
    fn median_is_the_middle_or_nan() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }
}
