//! Times that were measured.

use serde_json::{Value, json};

/// Durations in nanoseconds.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<u64>);

impl Samples {
    /// From measured values, in any order.
    #[must_use]
    pub fn new(mut nanoseconds: Vec<u64>) -> Self {
        nanoseconds.sort_unstable();
        Self(nanoseconds)
    }

    /// The value below which `percent` of the samples lie; 0 where there are none.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> u64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((self.0.len() * percent / 100).min(last)).copied().unwrap_or(0)
    }

    /// As a JSON object: how many, median, 99th percentile, least and most.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "samples": self.0.len(),
            "p50_ns": self.percentile(50),
            "p99_ns": self.percentile(99),
            "min_ns": self.percentile(0),
            "max_ns": self.percentile(100),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_values() {
        let samples = Samples::new((1..=100).rev().collect());
        assert_eq!((samples.percentile(0), samples.percentile(50)), (1, 51));
        assert_eq!((samples.percentile(99), samples.percentile(100)), (100, 100));
        assert_eq!(Samples::default().percentile(50), 0);
    }
}
