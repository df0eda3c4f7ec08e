use gcos_store::Stats;

/// What a metric is, in Prometheus' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, until the pool is opened again.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts by upper bound, with a sum.
    Histogram,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Name; units are those that it ends with.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it says.
    pub help: &'static str,
}

macro_rules! of_stats {
    ($($field:ident, $kind:ident, $name:literal, $help:literal;)*) => {
        /// Metrics that are fields of [`Stats`].
        pub(super) const OF_STATS: &[Metric] =
            &[$(Metric { name: $name, kind: Kind::$kind, help: $help }),*];

        /// Their values, in the same order.
        pub(super) fn values_of(stats: &Stats) -> [u64; OF_STATS.len()] {
            [$(stats.$field),*]
        }

        #[cfg(test)]
        pub(super) const FIELDS: &[&str] = &[$(stringify!($field)),*];
    };
}

of_stats! {
    objects, Gauge, "gcos_objects", "Objects present.";
    payload_bytes, Gauge, "gcos_payload_bytes", "Payload bytes of the objects present.";
    used_bytes, Gauge, "gcos_used_bytes", "Bytes of the data zone in use, headers and rounding included.";
    capacity_bytes, Gauge, "gcos_capacity_bytes", "Bytes of the data zone of the drives present.";
    meta_used_bytes, Gauge, "gcos_meta_used_bytes", "Bytes that metadata of the objects present takes in a checkpoint.";
    meta_capacity_bytes, Gauge, "gcos_meta_capacity_bytes", "Bytes that it may take.";
    pinned, Gauge, "gcos_pinned_objects", "Objects with at least one pin.";
    index_bytes, Gauge, "gcos_index_bytes", "Bytes of host memory that the index takes, keys included.";
    key_bytes, Gauge, "gcos_key_bytes", "Bytes of keys in the index.";
    puts, Counter, "gcos_puts_total", "Puts that stored.";
    puts_kept, Counter, "gcos_puts_kept_total", "Puts that kept an object that was there.";
    puts_failed, Counter, "gcos_puts_failed_total", "Puts that failed on the drives they were placed on, also those that were then stored on others.";
    put_bytes, Counter, "gcos_put_bytes_total", "Payload bytes stored.";
    hits, Counter, "gcos_hits_total", "Gets that hit.";
    misses, Counter, "gcos_misses_total", "Gets that missed, for any reason.";
    misses_damaged, Counter, "gcos_misses_damaged_total", "Misses because of damage: a part of the misses.";
    misses_io, Counter, "gcos_misses_io_total", "Misses because of I/O errors and lost drives: a part of the misses.";
    get_bytes, Counter, "gcos_get_bytes_total", "Payload bytes delivered.";
    removed, Counter, "gcos_removed_total", "Objects removed by the caller.";
    evicted, Counter, "gcos_evicted_total", "Objects evicted for room.";
    evicted_bytes, Counter, "gcos_evicted_bytes_total", "Payload bytes of the objects evicted.";
    expired, Counter, "gcos_expired_total", "Objects whose lifetime ended.";
    journal_frames, Counter, "gcos_journal_frames_total", "Journal frames written.";
    journal_records, Counter, "gcos_journal_records_total", "Records in the journal frames written.";
    checkpoints, Counter, "gcos_checkpoints_total", "Checkpoints written.";
    chunks_deallocated, Counter, "gcos_chunks_deallocated_total", "Chunks that drives were told are free.";
    staged_bytes, Counter, "gcos_staged_bytes_total", "Bytes copied through staging memory, since the caller's memory is not registered.";
    device_gets, Counter, "gcos_device_gets_total", "Gets (layers counted each) that a GPU and the drives did by themselves: a part of the hits.";
    device_puts, Counter, "gcos_device_puts_total", "Puts whose data a GPU and the drives moved by themselves.";
    device_fallbacks, Counter, "gcos_device_fallbacks_total", "Gets and puts on a GPU's stream that the host did.";
    drives_online, Gauge, "gcos_drives_online", "Drives in use.";
    drives_lost, Gauge, "gcos_drives_lost", "Drives of the pool that are missing or have failed.";
    demoted_errors, Counter, "gcos_demotions_errors_total", "Times that drives left a way because of errors.";
    demoted_gone, Counter, "gcos_demotions_gone_total", "Times that drives left a way because the device was gone.";
    demoted_latency, Counter, "gcos_demotions_latency_total", "Times that drives left a way because of latency.";
    demoted_asked, Counter, "gcos_demotions_asked_total", "Times that drives left a way because somebody asked for it.";
    demoted_unwritable, Gauge, "gcos_drives_unwritable", "Drives that are not written until the pool is opened again.";
    promotions, Counter, "gcos_promotions_total", "Times that drives went back to their first way.";
    requests_retried, Counter, "gcos_requests_retried_total", "Requests that were carried out on another way after a failure.";
    puts_retried, Counter, "gcos_puts_retried_total", "Puts that were begun again on other drives.";
    spilled, Counter, "gcos_spilled_total", "Puts that went to the drive for spill.";
    spill_used_bytes, Gauge, "gcos_spill_used_bytes", "Bytes in use on the drive for spill.";
    spill_capacity_bytes, Gauge, "gcos_spill_capacity_bytes", "Bytes of the data zone of the drive for spill.";
}

macro_rules! others {
    ($($constant:ident, $kind:ident, $name:literal, $help:literal;)*) => {
        $(pub(super) const $constant: Metric = Metric { name: $name, kind: Kind::$kind, help: $help };)*

        /// Metrics with labels, and those of no field of the statistics.
        pub(super) const OTHERS: &[Metric] = &[$($constant),*];
    };
}

others! {
    POOL_INFO, Gauge, "gcos_pool_info", "Always 1; labels pool (UUID) and version (of the library).";
    DRIVE_UP, Gauge, "gcos_drive_up", "1 while the drive is used for everything, else 0; labels drive (index in the pool), name, way (what moves its blocks), health.";
    DRIVE_SPILL, Gauge, "gcos_drive_spill", "1 for the drive for spill, else 0; label drive.";
    DRIVE_USED_BYTES, Gauge, "gcos_drive_used_bytes", "Bytes of the drive's data zone in use; label drive.";
    DRIVE_CAPACITY_BYTES, Gauge, "gcos_drive_capacity_bytes", "Bytes of the drive's data zone; label drive.";
    DRIVE_DEMOTIONS, Counter, "gcos_drive_demotions_total", "Times that the drive left a way; label drive.";
    DRIVE_REQUESTS, Gauge, "gcos_drive_requests_under_way", "Requests of the host that the drive has and that have not ended: its queue depth in use, without what GPUs ask for themselves; label drive.";
    DRIVE_BYTES, Gauge, "gcos_drive_bytes_under_way", "Bytes of those requests; label drive.";
    CALL_SECONDS, Histogram, "gcos_call_seconds", "Time of calls, batches counted once; label op (put, put_many, device_put, get, get_many, device_get).";
    CALL_BYTES, Counter, "gcos_call_bytes_total", "Payload bytes that those calls moved; label op.";
    CALLS_UNDER_WAY, Gauge, "gcos_calls_under_way", "Calls that have not ended; label direction (read, write).";
    BUSY_SECONDS, Counter, "gcos_busy_seconds_total", "Time in which at least one such call was under way; label direction.";
}

/// All metrics, in the order of the text.
pub fn metrics() -> impl Iterator<Item = &'static Metric> {
    OTHERS.iter().take(1).chain(OF_STATS).chain(OTHERS.iter().skip(1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_field_of_the_statistics_is_a_metric() {
        let value = serde_json::to_value(Stats::default()).unwrap();
        let fields: BTreeSet<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, FIELDS.iter().copied().collect());
    }

    #[test]
    fn names_are_unique_and_say_what_they_are() {
        let names: BTreeSet<_> = metrics().map(|metric| metric.name).collect();
        assert_eq!(names.len(), metrics().count());
        for Metric { name, kind, help } in metrics() {
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(name.starts_with("gcos_") && help.ends_with('.'), "{name}");
            assert!(!help.contains(['\n', '\\']), "{name}");
        }
    }
}
