use serde::Serialize;

use crate::index::Entry;

/// How a put ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PutOutcome {
    /// The object was stored.
    Stored,
    /// The key exists and was kept; nothing was written.
    Kept,
}

/// How a get ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The target memory holds exactly the bytes that were put.
    Hit(ObjectInfo),
    /// It does not; what is in it is unspecified.
    Miss(MissReason),
}

impl Lookup {
    /// Whether it is a hit.
    #[must_use]
    pub fn is_hit(&self) -> bool {
        matches!(self, Lookup::Hit(_))
    }
}

/// Why a get was a miss.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MissReason {
    /// No such key.
    #[error("no such key")]
    Absent,
    /// Its lifetime is over.
    #[error("expired")]
    Expired,
    /// What the drive returned is not what was stored. The object has been dropped.
    #[error("damaged on {drive}: {detail}")]
    Damaged {
        /// Drive.
        drive: String,
        /// Which check failed.
        detail: String,
    },
    /// A drive that holds part of it is missing or has failed. The object is kept for its return.
    #[error("drive {drive} is missing or has failed")]
    DriveGone {
        /// Index of the drive in the pool.
        drive: u8,
    },
    /// A drive did not deliver it.
    #[error("read failed: {detail}")]
    Io {
        /// The engine's message.
        detail: String,
    },
    /// A drive did not deliver it in time, and what reads it cannot be made to give up. The object is kept.
    ///
    /// **What was given for it may still be written to**, until that memory has been taken back from the pool.
    #[error("not read in time, and the memory given may still be written to: {detail}")]
    Unfinished {
        /// The engine's message.
        detail: String,
    },
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectInfo {
    /// Payload length in bytes.
    pub len: u32,
    /// Generation: higher for objects stored later.
    pub generation: u64,
    /// Expiry in seconds since 1970, if it has one.
    pub expires_at: Option<u32>,
    /// How many times it is pinned.
    pub pins: u32,
    /// Indices of the drives that it lies on, the head's first.
    pub drives: Vec<u8>,
}

impl ObjectInfo {
    pub(crate) fn of(entry: &Entry) -> Self {
        let mut drives = vec![entry.head().drive];
        for piece in entry.pieces() {
            if !drives.contains(&piece.drive) {
                drives.push(piece.drive);
            }
        }
        Self {
            len: entry.payload_len(),
            generation: entry.generation,
            expires_at: (entry.expiry != 0).then_some(entry.expiry),
            pins: entry.pins.into(),
            drives,
        }
    }
}

/// What opening a pool found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RecoveryReport {
    /// Objects after recovery.
    pub objects: u64,
    /// Whether all drives had been closed in order.
    pub clean: bool,
    /// Records applied from journals.
    pub journal_records: u64,
    /// Objects dropped because a newer one holds their blocks (possible after a drive was missing).
    pub overlapping_dropped: u64,
    /// Drives (by index) whose newest checkpoint was unreadable and the one before was used.
    pub older_checkpoint_used: Vec<u8>,
    /// Drives (by index) with damaged journal frames before the end: records behind are lost.
    pub journal_holes: Vec<u8>,
    /// Drives (by index) that the pool has and the caller did not give.
    pub missing_drives: Vec<u8>,
    /// Superblock copies that did not agree, over all drives; they are rewritten at open.
    pub superblock_copies_repaired: u64,
    /// Time that recovery took, in microseconds.
    pub micros: u64,
    /// Of that: reading checkpoints into the index.
    pub checkpoint_micros: u64,
    /// Of that: reading journals, and applying them.
    pub journal_micros: u64,
    /// Of that: giving objects their space, and their order of age.
    pub space_micros: u64,
}

/// Identity and size of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolInfo {
    /// Pool UUID, hyphenated.
    pub pool_uuid: String,
    /// Number of drives.
    pub drives: usize,
    /// Bytes of all data chunks of the drives present.
    pub data_bytes: u64,
    /// Bytes of one data chunk.
    pub chunk_bytes: u32,
    /// Time of format, seconds since 1970.
    pub created: u64,
}

/// Counters and gauges of a store. Counters run from open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
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

/// Whether a drive is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DriveHealth {
    /// For everything.
    Online,
    /// Objects on it can be read; nothing is written until the pool is opened again.
    ReadOnly,
    /// Its engine took it out of use; [`crate::Store::promote`] brings it back.
    Demoted,
    /// It does not answer.
    Gone,
    /// It was not there when the pool was opened.
    Missing,
}

/// What is known of a drive of an open pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DriveInfo {
    /// Index in the pool.
    pub index: u8,
    /// Name, empty for one that is missing.
    pub name: String,
    /// Whether it is in use.
    pub health: DriveHealth,
    /// Whether it is for spill.
    pub spill: bool,
    /// What moves its blocks now: "NVMe driver", "io_uring" and the like.
    pub way: String,
    /// Why not a better way; empty on the best.
    pub reason: String,
    /// Times that it left a way.
    pub demotions: u64,
    /// Requests of the host that the drive has: its queue depth in use.
    pub requests_under_way: u64,
    /// Bytes of those requests.
    pub bytes_under_way: u64,
    /// Bytes of slots in use.
    pub used_bytes: u64,
    /// Bytes of all its data chunks.
    pub capacity_bytes: u64,
}
