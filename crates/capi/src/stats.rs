use std::ffi::c_char;

use gcos::Stats;
use gcos::metrics::{IntervalStats, MetricsServer};
use serde_json::json;

use crate::args::{Out, OutStruct, give_text, text};
use crate::call::guard;
use crate::handle;
use crate::types::{gcos_status, gcos_store};

/// Counters and gauges of an open pool. Counters run from open. Set struct_size before the call; later versions add
/// fields at the end.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct gcos_stats {
    /// sizeof(gcos_stats).
    pub struct_size: usize,
    /// Objects present.
    pub objects: u64,
    /// Payload bytes of the objects present.
    pub payload_bytes: u64,
    /// Bytes of slots in use, headers and rounding included.
    pub used_bytes: u64,
    /// Bytes of all data chunks of the drives present.
    pub capacity_bytes: u64,
    /// Bytes that metadata of the objects present takes in a checkpoint.
    pub meta_used_bytes: u64,
    /// Bytes that it may take.
    pub meta_capacity_bytes: u64,
    /// Objects with at least one pin.
    pub pinned: u64,
    /// Bytes of memory that the index takes, keys included.
    pub index_bytes: u64,
    /// Bytes of keys in the index.
    pub key_bytes: u64,
    /// Puts that stored.
    pub puts: u64,
    /// Puts that kept an existing object.
    pub puts_kept: u64,
    /// Puts that failed on the drives they were placed on, also those that were then stored on others.
    pub puts_failed: u64,
    /// Payload bytes stored.
    pub put_bytes: u64,
    /// Gets that hit.
    pub hits: u64,
    /// Gets that missed, for any reason.
    pub misses: u64,
    /// Misses because of damage.
    pub misses_damaged: u64,
    /// Misses because of I/O errors and lost drives.
    pub misses_io: u64,
    /// Payload bytes delivered.
    pub get_bytes: u64,
    /// Objects removed by the caller.
    pub removed: u64,
    /// Objects evicted for room.
    pub evicted: u64,
    /// Payload bytes of them.
    pub evicted_bytes: u64,
    /// Objects whose lifetime ended.
    pub expired: u64,
    /// Journal frames written.
    pub journal_frames: u64,
    /// Records in them.
    pub journal_records: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Chunks deallocated.
    pub chunks_deallocated: u64,
    /// Bytes copied through staging memory because the caller's memory was not device-visible.
    pub staged_bytes: u64,
    /// Gets (layers counted each) that the GPU and the drives did by themselves: a part of the hits.
    pub device_gets: u64,
    /// Puts whose data the GPU and the drives moved by themselves.
    pub device_puts: u64,
    /// Gets and puts on a GPU's stream that the host did, since the GPU and the drives could not.
    pub device_fallbacks: u64,
    /// Drives in use.
    pub drives_online: u64,
    /// Drives of the pool that are missing or have failed.
    pub drives_lost: u64,
    /// Times that drives left a way because of errors past the budget.
    pub demoted_errors: u64,
    /// Times that they did because the device was gone.
    pub demoted_gone: u64,
    /// Times that they did because of latency.
    pub demoted_latency: u64,
    /// Times that they did because somebody asked for it.
    pub demoted_asked: u64,
    /// Drives that are not written until the pool is opened again, since their journal or their cache
    /// could not be written.
    pub demoted_unwritable: u64,
    /// Times that drives went back to their first way.
    pub promotions: u64,
    /// Requests that were carried out on another way after they had failed on theirs.
    pub requests_retried: u64,
    /// Puts that were begun again on other drives, since a drive failed.
    pub puts_retried: u64,
    /// Puts that went to the drive for spill.
    pub spilled: u64,
    /// Bytes of slots in use on the drive for spill.
    pub spill_used_bytes: u64,
    /// Bytes of all its data chunks; 0 where there is none.
    pub spill_capacity_bytes: u64,
}

/// Figures of the time since the call before. Set struct_size before the call; later versions add fields at the end.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct gcos_interval_stats {
    /// sizeof(gcos_interval_stats).
    pub struct_size: usize,
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

impl From<&Stats> for gcos_stats {
    fn from(stats: &Stats) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            objects: stats.objects,
            payload_bytes: stats.payload_bytes,
            used_bytes: stats.used_bytes,
            capacity_bytes: stats.capacity_bytes,
            meta_used_bytes: stats.meta_used_bytes,
            meta_capacity_bytes: stats.meta_capacity_bytes,
            pinned: stats.pinned,
            index_bytes: stats.index_bytes,
            key_bytes: stats.key_bytes,
            puts: stats.puts,
            puts_kept: stats.puts_kept,
            puts_failed: stats.puts_failed,
            put_bytes: stats.put_bytes,
            hits: stats.hits,
            misses: stats.misses,
            misses_damaged: stats.misses_damaged,
            misses_io: stats.misses_io,
            get_bytes: stats.get_bytes,
            removed: stats.removed,
            evicted: stats.evicted,
            evicted_bytes: stats.evicted_bytes,
            expired: stats.expired,
            journal_frames: stats.journal_frames,
            journal_records: stats.journal_records,
            checkpoints: stats.checkpoints,
            chunks_deallocated: stats.chunks_deallocated,
            staged_bytes: stats.staged_bytes,
            device_gets: stats.device_gets,
            device_puts: stats.device_puts,
            device_fallbacks: stats.device_fallbacks,
            drives_online: stats.drives_online,
            drives_lost: stats.drives_lost,
            demoted_errors: stats.demoted_errors,
            demoted_gone: stats.demoted_gone,
            demoted_latency: stats.demoted_latency,
            demoted_asked: stats.demoted_asked,
            demoted_unwritable: stats.demoted_unwritable,
            promotions: stats.promotions,
            requests_retried: stats.requests_retried,
            puts_retried: stats.puts_retried,
            spilled: stats.spilled,
            spill_used_bytes: stats.spill_used_bytes,
            spill_capacity_bytes: stats.spill_capacity_bytes,
        }
    }
}

impl From<&IntervalStats> for gcos_interval_stats {
    fn from(stats: &IntervalStats) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            seconds: stats.seconds,
            reads: stats.reads,
            read_bytes: stats.read_bytes,
            read_throughput_gbs: stats.read_throughput_gbs,
            read_latency_ms: stats.read_latency_ms,
            read_latency_p99_ms: stats.read_latency_p99_ms,
            read_busy_percent: stats.read_busy_percent,
            writes: stats.writes,
            write_bytes: stats.write_bytes,
            write_throughput_gbs: stats.write_throughput_gbs,
            write_latency_ms: stats.write_latency_ms,
            write_latency_p99_ms: stats.write_latency_p99_ms,
            write_busy_percent: stats.write_busy_percent,
            hits: stats.hits,
            misses: stats.misses,
            cache_hit_rate_percent: stats.cache_hit_rate_percent,
            evicted: stats.evicted,
            used_percent: stats.used_percent,
        }
    }
}

/// Counters and gauges.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_get_stats(
    store: *mut gcos_store,
    stats: *mut gcos_stats,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let stats = unsafe { OutStruct::of("stats", stats)? };
        stats.put(&(&handle.access.store().stats()).into());
        Ok(())
    })
}

/// Figures since the last call of this, or since the pool was opened: throughput, latency, hit rate.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_get_interval_stats(
    store: *mut gcos_store,
    stats: *mut gcos_interval_stats,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let stats = unsafe { OutStruct::of("stats", stats)? };
        stats.put(&(&handle.access.interval_stats()).into());
        Ok(())
    })
}

/// What is open, as a JSON document: the pool, what recovery found, each drive with its health and way, drives that
/// were left out. len (may be null) gets the length of the text; GCOS_WRONG_SIZE when it and a zero byte do not fit in
/// capacity. With capacity 0 only the length is told, and text may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_describe(
    store: *mut gcos_store,
    text: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        let access = &handle.access;
        let document = json!({
            "version": gcos::version(),
            "pool": access.store().pool(),
            "recovery": access.store().recovery(),
            "drives": access.store().drives(),
            "ways": access.choices(),
            "skipped": access.skipped(),
        });
        // SAFETY: as the header asks of callers.
        unsafe { give_text(&document.to_string(), text, capacity, len) }
    })
}

/// All figures in the text format of Prometheus: see docs/metrics.md. The buffer as of gcos_describe; the text grows
/// and shrinks between calls, so ask again where it does not fit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_metrics_text(
    store: *mut gcos_store,
    text: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        unsafe { give_text(&handle.access.metrics_text(), text, capacity, len) }
    })
}

/// Serves that text to Prometheus at an address in digits such as "127.0.0.1:9090", in the place of an address before;
/// null ends it. With port 0 any free one is taken; port (may be null) says which. If this fails, the address before is
/// served on: so one that overlaps it, the same port of another address, is refused until it was ended with null.
/// There is neither encryption nor a password.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_serve_metrics(
    store: *mut gcos_store,
    address: *const c_char,
    port: *mut u16,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let port = unsafe { Out::maybe("port", port)? };
        let mut serving = handle.metrics.lock();
        if address.is_null() {
            *serving = None;
            return Ok(());
        }
        // SAFETY: as above.
        let address = unsafe { self::text("address", address)? };
        // What is served there already cannot be had twice, and is the same.
        let same = |server: &&MetricsServer| address.parse() == Ok(server.address());
        if let Some(server) = serving.as_ref().filter(same) {
            port.put(server.address().port());
            return Ok(());
        }
        let server = MetricsServer::start(&handle.access, address)?;
        port.put(server.address().port());
        *serving = Some(server);
        Ok(())
    })
}

/// Makes everything that was acknowledged so far durable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_flush(store: *mut gcos_store) -> gcos_status {
    guard(|| Ok(handle::find(store)?.access.store().flush()?))
}

/// Writes a checkpoint of every drive, so that the next open has little to replay.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_checkpoint(store: *mut gcos_store) -> gcos_status {
    guard(|| Ok(handle::find(store)?.access.store().checkpoint()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_figures_is_in_the_structs() {
        let count = |value: serde_json::Value| value.as_object().unwrap().len() + 1;
        let stats = count(serde_json::to_value(Stats::default()).unwrap());
        assert_eq!(size_of::<gcos_stats>(), stats * 8);
        let interval = count(serde_json::to_value(IntervalStats::default()).unwrap());
        assert_eq!(size_of::<gcos_interval_stats>(), interval * 8);
    }
}
