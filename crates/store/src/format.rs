//! Laying out a pool, and finding out what a drive holds before that.

use std::sync::Arc;
use std::time::Duration;

use gcos_engine::{Engine, Request};
use gcos_layout::media::{
    BLOCK_BYTES, DriveState, MAX_DRIVES, Superblock, Uuid, VERSION_MAJOR, VERSION_MINOR, ZoneMap,
};

use crate::drive::{BlockIo, read_superblock, write_superblock};
use crate::staging::Staging;
use crate::{FormatOptions, PoolInfo, StoreError};

/// What a drive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// Zeros where anything would show.
    Blank,
    /// A GCOS pool.
    Pool {
        /// Pool UUID, hyphenated.
        pool_uuid: String,
        /// Index of this drive in the pool.
        drive_index: u16,
        /// Number of drives of the pool.
        drives: u16,
    },
    /// Something else, in words: "an ext4 file system", "a GPT partition table", "data that GCOS
    /// does not know".
    Other(String),
}

impl std::fmt::Display for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Contents::Blank => f.write_str("nothing"),
            Contents::Pool { pool_uuid, drive_index, drives } => {
                write!(f, "drive {drive_index} of the {drives}-drive GCOS pool {pool_uuid}")
            }
            Contents::Other(what) => f.write_str(what),
        }
    }
}

/// Magic numbers of what people keep on drives: offset, bytes, name.
const KNOWN: &[(usize, &[u8], &str)] = &[
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (0x438, &[0x53, 0xef], "an ext2, ext3 or ext4 file system"),
    (0, b"XFSB", "an XFS file system"),
    (0x1_0040, b"_BHRfS_M", "a Btrfs file system"),
    (0, b"LUKS\xba\xbe", "a LUKS encrypted volume"),
    (0x218, b"LVM2 001", "an LVM physical volume"),
    (0x18, b"LVM2 001", "an LVM physical volume"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (0x400, &[0x10, 0x20, 0xf5, 0xf2], "an F2FS file system"),
    (0xff6, b"SWAPSPACE2", "Linux swap space"),
    (0x1000, &[0xfc, 0x4e, 0x2b, 0xa9], "a Linux RAID member"),
    (0, &[0xfc, 0x4e, 0x2b, 0xa9], "a Linux RAID member"),
    (0x52, b"FAT32   ", "a FAT32 file system"),
    (0x36, b"FAT1", "a FAT file system"),
    (0x8001, b"CD001", "an ISO 9660 file system"),
    (510, &[0x55, 0xaa], "an MBR partition table or boot sector"),
];

/// Finds out what a drive holds. Reads its first 128 KiB and the places of superblocks only.
///
/// # Errors
/// [`StoreError::Io`] when the drive cannot be read.
pub fn probe(drive: &Arc<dyn Engine>, io_deadline: Duration) -> Result<Contents, StoreError> {
    let io = block_io(drive, io_deadline);
    match read_superblock(&io, None) {
        Ok(copies) => {
            return Ok(Contents::Pool {
                pool_uuid: uuid::Uuid::from_bytes(copies.superblock.pool_uuid).to_string(),
                drive_index: copies.superblock.drive_index,
                drives: u16::try_from(copies.superblock.members.len()).unwrap_or(u16::MAX),
            });
        }
        Err(StoreError::NotAPool { .. }) => {}
        Err(error @ StoreError::Io(_)) => return Err(error),
        Err(error) => {
            return Ok(Contents::Other(format!("a damaged or newer GCOS pool ({error})")));
        }
    }
    let capacity = drive.geometry().capacity;
    let take = capacity.min(128 << 10) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let front = io.read(0, usize::try_from(take).unwrap_or(128 << 10))?;
    for (offset, magic, name) in KNOWN {
        if front.get(*offset..*offset + magic.len()) == Some(magic) {
            return Ok(Contents::Other((*name).to_owned()));
        }
    }
    let [_, second, third, last] = ZoneMap::copies(capacity);
    let mut blank = front.iter().all(|&byte| byte == 0);
    for offset in [second, third, last] {
        blank &= io.read(offset, BLOCK_BYTES)?.iter().all(|&byte| byte == 0);
    }
    match blank {
        true => Ok(Contents::Blank),
        false => Ok(Contents::Other("data that GCOS does not know".to_owned())),
    }
}

fn block_io(drive: &Arc<dyn Engine>, deadline: Duration) -> BlockIo {
    let staging = Staging::new(Arc::clone(drive.dma()));
    BlockIo { engine: Arc::clone(drive), staging, deadline }
}

/// Lays out a new, empty pool over the drives, in this order. What they held is gone afterwards.
///
/// A format that is cut short leaves drives that hold no pool; format them again.
///
/// # Errors
/// [`StoreError::Occupied`] when a drive holds something and `force` is not set (nothing was written
/// then), [`StoreError::Invalid`] and [`StoreError::Format`] for sizes that do not fit, I/O errors.
pub fn format(drives: &[Arc<dyn Engine>], options: &FormatOptions) -> Result<PoolInfo, StoreError> {
    if drives.is_empty() || drives.len() > MAX_DRIVES {
        return Err(StoreError::invalid("number of drives", "1 to 64", drives.len()));
    }
    if !(1..=25).contains(&options.meta_percent) {
        return Err(StoreError::invalid("meta_percent", "1 to 25", options.meta_percent));
    }
    for (at, drive) in drives.iter().enumerate() {
        if drives.iter().skip(at + 1).any(|other| Arc::ptr_eq(drive, other)) {
            let got = format!("{} twice", drive.geometry().name);
            return Err(StoreError::invalid("drives", "each drive once", got));
        }
    }
    let plans = plan(drives, options)?;
    for (drive, _) in plans.iter().filter(|_| !options.force) {
        let contents = probe(&drive.engine, options.io_deadline)?;
        if contents != Contents::Blank {
            let drive = drive.name().to_owned();
            return Err(StoreError::Occupied { drive, found: contents.to_string() });
        }
    }
    let mut failed = Vec::with_capacity(plans.len());
    for (io, first) in &plans {
        erase(io, &first.zones)?;
        failed.push(write_superblock(io, first, 0)?);
    }
    // Only when every drive is laid out does one become ready, and with it the pool.
    for ((io, first), failed) in plans.iter().zip(failed) {
        let ready = Superblock { state: DriveState::Ready, ..first.successor() };
        write_superblock(io, &ready, failed)?;
    }
    Ok(pool_info(plans.iter().map(|(_, superblock)| superblock)))
}

/// The first superblock of each drive.
fn plan(
    drives: &[Arc<dyn Engine>],
    options: &FormatOptions,
) -> Result<Vec<(BlockIo, Superblock)>, StoreError> {
    let members: Vec<Uuid> = drives.iter().map(|_| crate::turns::uuid()).collect();
    let pool_uuid = crate::turns::uuid();
    let created = crate::turns::seconds();
    let mut plans = Vec::with_capacity(drives.len());
    for (index, drive) in drives.iter().enumerate() {
        let geometry = drive.geometry();
        let capacity = options.capacity.filter(|_| options.spill != Some(index));
        let capacity = capacity.unwrap_or(geometry.capacity);
        if capacity > geometry.capacity {
            return Err(StoreError::invalid(
                "capacity",
                format!("at most the {} bytes of {}", geometry.capacity, geometry.name),
                capacity,
            ));
        }
        let zones =
            ZoneMap::plan(capacity, options.chunks, options.meta_percent).map_err(|source| {
                StoreError::Format {
                    drive: geometry.name.clone(),
                    at: "the zones cannot be laid out".to_owned(),
                    source,
                }
            })?;
        let superblock = Superblock {
            version: (VERSION_MAJOR, VERSION_MINOR),
            sequence: 1,
            parent: 0,
            pool_uuid,
            drive_index: u16::try_from(index).unwrap_or(u16::MAX),
            members: members.clone(),
            state: DriveState::Formatting,
            clean: true,
            lba_bytes: geometry.lba_bytes,
            epoch: 0,
            created,
            zones,
        };
        plans.push((block_io(drive, options.io_deadline), superblock));
    }
    Ok(plans)
}

/// Makes sure that nothing of an older pool or file system is found any more: superblocks first, then
/// checkpoint headers and the first blocks. Old journal frames and data carry other UUIDs.
fn erase(io: &BlockIo, zones: &ZoneMap) -> Result<(), StoreError> {
    let zeros = [0; BLOCK_BYTES];
    let capacity = io.engine.geometry().capacity;
    let mut places: Vec<u64> = zones.superblock_offsets().to_vec();
    places.extend(ZoneMap::copies(capacity));
    if let Ok(old) = read_superblock(io, None) {
        places.extend(old.superblock.zones.superblock_offsets());
    }
    places.sort_unstable();
    places.dedup();
    places.retain(|place| place + BLOCK_BYTES as u64 <= capacity);
    for place in places {
        io.write(place, &zeros, true)?;
    }
    let front = usize::try_from(capacity.min(128 << 10)).unwrap_or(BLOCK_BYTES);
    io.write(0, &vec![0; front / BLOCK_BYTES * BLOCK_BYTES], true)?;
    for area in 0..2 {
        io.write(zones.checkpoint_offset(area), &zeros, true)?;
    }
    if io.engine.geometry().deallocate {
        let chunk = u64::from(zones.chunks.data);
        let extents = (0..zones.data_chunks()).filter_map(|n| {
            zones.data_offset(n, 0).map(|offset| gcos_engine::Extent { offset, len: chunk })
        });
        // Only a hint to the drive: formatting does not depend on it.
        if let Err(error) = io.engine.run(Request::deallocate(extents, io.deadline)) {
            tracing::warn!(drive = io.name(), %error, "the drive did not deallocate its data zone");
        }
    }
    io.flush()
}

/// Identity and size of the pool that these superblocks describe.
pub(crate) fn pool_info<'a>(drives: impl Iterator<Item = &'a Superblock> + Clone) -> PoolInfo {
    let first = drives.clone().next();
    let data = |s: &Superblock| u64::from(s.zones.data_chunks()) * u64::from(s.zones.chunks.data);
    PoolInfo {
        pool_uuid: uuid::Uuid::from_bytes(first.map_or([0; 16], |s| s.pool_uuid)).to_string(),
        drives: first.map_or(0, |s| s.members.len()),
        data_bytes: drives.map(data).sum(),
        chunk_bytes: first.map_or(0, |s| s.zones.chunks.data),
        created: first.map_or(0, |s| s.created),
    }
}
