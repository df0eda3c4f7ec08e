use std::time::{Duration, Instant};

use gcos_store::Stats;
use serde::Serialize;

use super::measures::{Direction, Measures};

/// What happened between two looks at a pool: figures of the last moments, for a status line or a log.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct IntervalStats {
    /// Length of the interval, in seconds.
    pub seconds: f64,
    /// Calls that read, batches counted once.
    pub reads: u64,
    /// Payload bytes that they delivered.
    pub read_bytes: u64,
    /// The same in GB (10^9 bytes) per second of the time in which any of them was under way.
    pub read_throughput_gbs: f64,
    /// Mean time of such a call, in milliseconds.
    pub read_latency_ms: f64,
    /// Upper bound of the time that 99 % of them took at most, in milliseconds: a power of two of microseconds.
    pub read_latency_p99_ms: f64,
    /// Share of the interval in which any of them was under way, in percent.
    pub read_busy_percent: f64,
    /// Calls that write, batches counted once.
    pub writes: u64,
    /// Payload bytes that they stored.
    pub write_bytes: u64,
    /// As for reads.
    pub write_throughput_gbs: f64,
    /// As for reads.
    pub write_latency_ms: f64,
    /// As for reads.
    pub write_latency_p99_ms: f64,
    /// As for reads.
    pub write_busy_percent: f64,
    /// Gets that hit.
    pub hits: u64,
    /// Gets that missed.
    pub misses: u64,
    /// Share of hits among both, in percent; 0 where there were none.
    pub cache_hit_rate_percent: f64,
    /// Objects evicted for room.
    pub evicted: u64,
    /// Use of the room for objects at the end of the interval, in percent.
    pub used_percent: f64,
}

/// Where an interval begins.
#[derive(Debug)]
pub(crate) struct Mark {
    at: Instant,
    reads: Direction,
    writes: Direction,
    hits: u64,
    misses: u64,
    evicted: u64,
}

impl Mark {
    pub(crate) fn new(measures: &Measures, stats: &Stats) -> Self {
        Self {
            at: Instant::now(),
            reads: measures.direction(true),
            writes: measures.direction(false),
            hits: stats.hits,
            misses: stats.misses,
            evicted: stats.evicted,
        }
    }

    /// What happened from this mark to a later one.
    pub(crate) fn until(&self, end: &Self, stats: &Stats) -> IntervalStats {
        let time = end.at.saturating_duration_since(self.at);
        let reads = Side::between(&self.reads, &end.reads, time);
        let writes = Side::between(&self.writes, &end.writes, time);
        let (hits, misses) =
            (end.hits - self.hits.min(end.hits), end.misses - self.misses.min(end.misses));
        IntervalStats {
            seconds: time.as_secs_f64(),
            reads: reads.calls,
            read_bytes: reads.bytes,
            read_throughput_gbs: reads.gbs,
            read_latency_ms: reads.mean_ms,
            read_latency_p99_ms: reads.p99_ms,
            read_busy_percent: reads.busy_percent,
            writes: writes.calls,
            write_bytes: writes.bytes,
            write_throughput_gbs: writes.gbs,
            write_latency_ms: writes.mean_ms,
            write_latency_p99_ms: writes.p99_ms,
            write_busy_percent: writes.busy_percent,
            hits,
            misses,
            cache_hit_rate_percent: percent(hits as f64, (hits + misses) as f64),
            evicted: end.evicted.saturating_sub(self.evicted),
            used_percent: percent(stats.used_bytes as f64, stats.capacity_bytes as f64),
        }
    }
}

/// Figures of one direction.
struct Side {
    calls: u64,
    bytes: u64,
    gbs: f64,
    mean_ms: f64,
    p99_ms: f64,
    busy_percent: f64,
}

impl Side {
    fn between(begin: &Direction, end: &Direction, time: Duration) -> Self {
        let latency = end.latency.since(&begin.latency);
        let bytes = end.bytes.saturating_sub(begin.bytes);
        let busy = end.busy.saturating_sub(begin.busy).as_secs_f64();
        Self {
            calls: latency.count(),
            bytes,
            gbs: if busy > 0.0 { bytes as f64 / 1e9 / busy } else { 0.0 },
            mean_ms: latency.mean_ms(),
            p99_ms: latency.quantile_ms(0.99),
            busy_percent: percent(busy, time.as_secs_f64()).min(100.0),
        }
    }
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part * 100.0 / whole } else { 0.0 }
}
