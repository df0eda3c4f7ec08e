use std::time::Duration;

use gcos_layout::media::ZoneChunks;

use crate::StoreError;

/// How a pool is laid out.
#[derive(Debug, Clone)]
pub struct FormatOptions {
    /// Chunk sizes of the zones.
    pub chunks: ZoneChunks,
    /// Share of each drive for metadata, in percent, 1 to 25.
    pub meta_percent: u32,
    /// Bytes of each drive to use; `None` for all of it.
    pub capacity: Option<u64>,
    /// Position, among the drives given, of one that is meant for spill ([`OpenOptions::spill`]): all of it
    /// is used, whatever `capacity` says. Nothing of this is on the drives.
    pub spill: Option<usize>,
    /// Erase what is there, whatever it is.
    pub force: bool,
    /// Time budget of each I/O.
    pub io_deadline: Duration,
}

impl Default for FormatOptions {
    fn default() -> Self {
        Self {
            chunks: ZoneChunks::default(),
            meta_percent: 1,
            capacity: None,
            spill: None,
            force: false,
            io_deadline: DEFAULT_DEADLINE,
        }
    }
}

const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
const LONGEST_DEADLINE: Duration = Duration::from_secs(3600);

/// When a put or remove is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When it survives power loss.
    #[default]
    Sync,
    /// At once. Power loss or a crash may undo the last moments (see [`OpenOptions::relaxed_interval`]),
    /// whole operations at a time, never part of one.
    Relaxed,
}

/// What a put does when the key exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfExists {
    /// Keeps the object that is there: right for content-addressed keys.
    #[default]
    Keep,
    /// Replaces it, atomically: readers and crashes see the old object or the new one.
    Replace,
}

/// Options of one put.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutOptions {
    /// When it is acknowledged.
    pub durability: Durability,
    /// What happens when the key exists.
    pub if_exists: IfExists,
    /// Lifetime, whole seconds rounded up; the object is a miss afterwards. `None` for no limit.
    pub ttl: Option<Duration>,
    /// Pins the new object at once, as [`crate::Store::pin`] does.
    pub pin: bool,
}

/// How a store runs.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Share of the data zone in use (percent) above which objects are evicted, least recently used
    /// first.
    pub high_watermark: u32,
    /// Share of the data zone in use (percent) down to which they are evicted then.
    pub low_watermark: u32,
    /// Longest time that a relaxed operation stays volatile while the store runs.
    pub relaxed_interval: Duration,
    /// Time budget of each I/O.
    pub io_deadline: Duration,
    /// Bytes of each drive that the pool was formatted over, if that is known and less than the drives
    /// have: lets superblock copies be found when the first one is damaged.
    pub capacity: Option<u64>,
    /// Position, among the drives given, of one that takes objects only while another is missing or out of
    /// use and the rest have no room, or where nothing on them can be evicted.
    pub spill: Option<usize>,
    /// Open although drives of the pool are missing: their objects are misses. Without it a missing
    /// drive is an error.
    pub allow_missing: bool,
    /// Run a maintenance thread (relaxed journal writes, checkpoints, expiry, deallocation). Without it
    /// the caller calls [`crate::Store::maintain`]; operations then do only what they cannot put off.
    pub background: bool,
    /// Tell the drive about freed chunks (DSM deallocate).
    pub deallocate: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            high_watermark: 95,
            low_watermark: 90,
            relaxed_interval: Duration::from_millis(100),
            io_deadline: DEFAULT_DEADLINE,
            capacity: None,
            spill: None,
            allow_missing: true,
            background: true,
            deallocate: true,
        }
    }
}

impl OpenOptions {
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let (low, high) = (self.low_watermark, self.high_watermark);
        if low == 0 || low > high || high > 100 {
            return Err(StoreError::invalid(
                "watermarks",
                "0 < low <= high <= 100 percent",
                format!("low {low}, high {high}"),
            ));
        }
        if self.io_deadline.is_zero() || self.io_deadline > LONGEST_DEADLINE {
            let got = format!("{:?}", self.io_deadline);
            return Err(StoreError::invalid("io_deadline", "more than 0, at most one hour", got));
        }
        Ok(())
    }
}
