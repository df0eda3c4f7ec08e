use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest time that can be told from a longer one: ten minutes.
const LONGEST_US: u64 = 600_000_000;

/// Kinds of operations that are measured apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the operations of the store")]
pub enum Kind {
    PutSync,
    PutRelaxed,
    PutMany,
    Get,
    GetRange,
    GetMany,
    Remove,
    Look,
    Maintain,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::PutSync,
        Self::PutRelaxed,
        Self::PutMany,
        Self::Get,
        Self::GetRange,
        Self::GetMany,
        Self::Remove,
        Self::Look,
        Self::Maintain,
    ];
}

/// How long operations took, in microseconds.
#[derive(Debug, Clone)]
pub struct Latencies([Histogram<u64>; Kind::ALL.len()]);

impl Default for Latencies {
    fn default() -> Self {
        Self(Kind::ALL.map(|_| Histogram::new_with_bounds(1, LONGEST_US, 3).unwrap()))
    }
}

impl Latencies {
    /// One more.
    pub fn note(&mut self, kind: Kind, took: Duration) {
        self.0[kind as usize].saturating_record(took.as_micros() as u64);
    }

    /// Takes over another thread's.
    pub fn add(&mut self, other: &Self) {
        for (own, others) in self.0.iter_mut().zip(&other.0) {
            own.add(others).unwrap();
        }
    }

    /// Number of operations.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.0.iter().map(Histogram::len).sum()
    }

    /// The longest of all.
    #[must_use]
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.0.iter().map(Histogram::max).max().unwrap_or(0))
    }
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Report {
    /// Of all threads.
    pub latencies: Latencies,
    /// Operations of each thread.
    pub by_thread: Vec<u64>,
    /// Gets that returned bytes.
    pub hits: u64,
    /// Gets that did not.
    pub misses: u64,
    /// Puts that were refused for lack of room.
    pub full: u64,
    /// Objects that were evicted.
    pub evicted: u64,
    /// Memory of the process before the store was opened, and the most seen while it ran.
    pub resident: (u64, u64),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12} {:>9} {:>10} {:>10} {:>10} µs",
            "", "number", "p50", "p99.9", "longest"
        )?;
        for (kind, histogram) in Kind::ALL.iter().zip(&self.latencies.0) {
            let at = |quantile| histogram.value_at_quantile(quantile);
            writeln!(
                f,
                "{:<12} {:>9} {:>10} {:>10} {:>10}",
                format!("{kind:?}"),
                histogram.len(),
                at(0.5),
                at(0.999),
                histogram.max()
            )?;
        }
        let (before, most) = self.resident;
        write!(
            f,
            "{} hits, {} misses, {} evicted, {} refused; {} MiB resident before, {} MiB at most",
            self.hits,
            self.misses,
            self.evicted,
            self.full,
            before >> 20,
            most >> 20
        )
    }
}

/// Memory of this process that is resident, in bytes.
#[must_use]
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_is_told_to_a_thousandth() {
        let mut latencies = Latencies::default();
        latencies.note(Kind::Get, Duration::from_micros(3));
        latencies.note(Kind::PutSync, Duration::from_secs(7));
        let longest = latencies.longest();
        assert!(longest >= Duration::from_secs(7) && longest < Duration::from_millis(7010));
        assert_eq!(latencies.operations(), 2);
    }
}
