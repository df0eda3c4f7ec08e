use std::time::Duration;

use serde::Serialize;

/// What to check and whether to write.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// Also read every object: header, fields and the checksum of each grain.
    pub data: bool,
    /// Repair what can be repaired without inventing data. Nothing is written without it.
    pub repair: bool,
    /// With `repair`: find out what it would do, and write nothing.
    pub dry_run: bool,
    /// With `repair`, for a drive that has lost its metadata: also bring back objects of which only the
    /// headers are left. Each verifies, but some may have been removed or replaced long ago.
    pub salvage: bool,
    /// Time budget of each I/O.
    pub io_deadline: Duration,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            data: false,
            repair: false,
            dry_run: false,
            salvage: false,
            io_deadline: Duration::from_secs(10),
        }
    }
}

/// What a check is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Superblocks; counted in drives.
    Superblocks,
    /// Checkpoints and journals; counted in drives.
    Metadata,
    /// Looking for object headers on a drive that has lost its metadata; counted in bytes.
    Headers,
    /// Locations and overlaps; counted in objects.
    Objects,
    /// Headers and grains; counted in bytes.
    Data,
    /// Writing; counted in drives.
    Repair,
}

/// How far a check has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// What is going on.
    pub phase: Phase,
    /// Units done, see [`Phase`].
    pub done: u64,
    /// Units in total.
    pub total: u64,
}
