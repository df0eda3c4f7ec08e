use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Finite buckets: 1 µs, 2 µs and so on to 2^26 µs, 67 s.
pub(super) const BUCKETS: usize = 27;

/// How long calls took: counts in buckets whose bounds are powers of two. Recording takes no lock.
#[derive(Debug)]
pub(super) struct Histogram {
    /// By bucket; the last one is of everything longer.
    counts: [AtomicU64; BUCKETS + 1],
    nanos: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS + 1], nanos: AtomicU64::new(0) }
    }
}

/// What a [`Histogram`] held at a moment. Records under way may be in the counts and not yet in the time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    counts: [u64; BUCKETS + 1],
    nanos: u64,
}

/// Upper bound of a bucket, in microseconds.
fn bound_micros(bucket: usize) -> u64 {
    1 << bucket
}

/// The bucket of a duration: the first whose bound is not below it.
fn bucket(nanos: u64) -> usize {
    let micros = nanos.div_ceil(1000).max(1);
    let bits = u64::BITS - (micros - 1).leading_zeros();
    (bits as usize).min(BUCKETS)
}

impl Histogram {
    pub(super) fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get(bucket(nanos)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Snapshot { counts: self.counts.each_ref().map(get), nanos: get(&self.nanos) }
    }
}

impl Snapshot {
    /// How many were recorded.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their time in all, in seconds.
    pub(super) fn seconds(&self) -> f64 {
        self.nanos as f64 / 1e9
    }

    /// Of each finite bucket: its upper bound in seconds, and how many were not longer.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        self.counts
            .iter()
            .take(BUCKETS)
            .scan(0, |sum, count| {
                *sum += count;
                Some(*sum)
            })
            .enumerate()
            .map(|(bucket, sum)| (bound_micros(bucket) as f64 / 1e6, sum))
    }

    /// What was recorded between `before` and this.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut counts = self.counts;
        for (now, then) in counts.iter_mut().zip(before.counts) {
            *now = now.saturating_sub(then);
        }
        Self { counts, nanos: self.nanos.saturating_sub(before.nanos) }
    }

    /// Both together.
    pub(super) fn plus(&self, other: &Self) -> Self {
        let mut counts = self.counts;
        for (sum, more) in counts.iter_mut().zip(other.counts) {
            *sum += more;
        }
        Self { counts, nanos: self.nanos.saturating_add(other.nanos) }
    }

    /// Mean, in milliseconds; 0 of nothing.
    pub(super) fn mean_ms(&self) -> f64 {
        match self.count() {
            0 => 0.0,
            count => self.nanos as f64 / 1e6 / count as f64,
        }
    }

    /// Upper bound, in milliseconds, of the bucket in which the share `of` (0 to 1) is reached; 0 of nothing.
    pub(super) fn quantile_ms(&self, of: f64) -> f64 {
        let all = self.count();
        if all == 0 {
            return 0.0;
        }
        let wanted = ((all as f64 * of).ceil() as u64).clamp(1, all);
        let mut found = self.cumulative().filter(|(_, sum)| *sum >= wanted);
        // Longer than all bounds: at least the last one.
        found.next().map_or(bound_micros(BUCKETS) as f64 / 1e3, |(seconds, _)| seconds * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_is_not_below_it() {
        let cases =
            [(0, 0), (1, 0), (1000, 0), (1001, 1), (2000, 1), (2001, 2), (4000, 2), (4001, 3)];
        for (nanos, expected) in cases {
            assert_eq!(bucket(nanos), expected, "{nanos} ns");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS);
        assert_eq!(bucket(67_108_864_000), BUCKETS - 1);
        assert_eq!(bucket(67_108_864_001), BUCKETS);
    }

    #[test]
    fn counts_are_cumulative_and_differences_are_of_the_interval() {
        let histogram = Histogram::default();
        for micros in [1, 3, 3, 1000, 100_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let first = histogram.snapshot();
        assert_eq!(first.count(), 5);
        assert!((first.seconds() - 100.001_007).abs() < 1e-6);
        let sums: Vec<_> = first.cumulative().map(|(_, sum)| sum).collect();
        assert_eq!(sums[..4], [1, 1, 3, 3]);
        assert_eq!(sums[BUCKETS - 1], 4, "one is longer than all bounds");
        histogram.record(Duration::from_millis(8));
        let between = histogram.snapshot().since(&first);
        assert_eq!(between.count(), 1);
        assert!((between.mean_ms() - 8.0).abs() < 1e-9);
        assert!((between.quantile_ms(0.99) - 8.192).abs() < 1e-9);
        assert_eq!(Snapshot::default().mean_ms(), 0.0);
        assert_eq!(Snapshot::default().quantile_ms(0.5), 0.0);
        assert_eq!(first.plus(&between).count(), 6);
    }
}
