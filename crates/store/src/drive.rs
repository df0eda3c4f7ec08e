//! One drive of an open pool, and block I/O on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use gcos_engine::{Engine, IoErrorKind, Request};
use gcos_layout::media::{BLOCK_BYTES, DriveState, Location, Superblock, ZoneMap};
use parking_lot::Mutex;

use crate::StoreError;
use crate::canary::{self, Canary};
use crate::staging::Staging;

/// Longest transfer of metadata in one request, in bytes.
const META_UNIT: usize = 1 << 20;

/// Whether a drive may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DriveStatus {
    /// For everything.
    Online,
    /// Its journal or its cache could not be written: objects can be read, nothing on it changes until
    /// the pool is opened again.
    ReadOnly,
    /// Its engine took it out of use; what was under way then ended as an error or not at all, so nothing
    /// is in doubt, and it may come back while the pool is open.
    Demoted,
    /// It does not answer.
    Gone,
}

impl DriveStatus {
    /// Several may hold of a drive at once.
    fn flag(self) -> u8 {
        match self {
            Self::Online => 0,
            Self::ReadOnly => 1,
            Self::Demoted => 2,
            Self::Gone => 4,
        }
    }
}

/// Of the superblock copies, all (bit mask).
const ALL_COPIES: u8 = 0b1111;

/// Reads and writes whole blocks of a drive through staging memory. For metadata.
#[derive(Debug, Clone)]
pub(crate) struct BlockIo {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) staging: Arc<Staging>,
    pub(crate) deadline: Duration,
}

impl BlockIo {
    /// Reads `len` bytes at `offset`; both whole blocks.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let mut out = vec![0; len];
        let mut at = offset;
        for part in out.chunks_mut(META_UNIT) {
            let lease = self.staging.take(part.len())?;
            let slice = lease.slice(0, part.len())?;
            self.engine.run(Request::read(at, slice.clone(), self.deadline))?;
            slice.read(0, part)?;
            at += part.len() as u64;
        }
        Ok(out)
    }

    /// Writes whole blocks at `offset`.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8], fua: bool) -> Result<(), StoreError> {
        let mut at = offset;
        for part in bytes.chunks(META_UNIT) {
            let lease = self.staging.take(part.len())?;
            let slice = lease.slice(0, part.len())?;
            slice.write(0, part)?;
            self.engine.run(Request::write(at, slice, fua, self.deadline))?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Makes completed writes durable.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        // Always asked for: only the engine knows whether the drive caches at this moment.
        Ok(self.engine.run(Request::flush(self.deadline))?)
    }

    pub(crate) fn name(&self) -> &str {
        &self.engine.geometry().name
    }
}

/// A drive of an open pool.
#[derive(Debug)]
pub(crate) struct Drive {
    pub(crate) index: u8,
    pub(crate) io: BlockIo,
    pub(crate) zones: ZoneMap,
    pub(crate) superblock: Mutex<Superblock>,
    /// Copies (bit mask) that may not hold it. Changed with `superblock` locked.
    stale: AtomicU8,
    /// Flags of [`DriveStatus`].
    status: AtomicU8,
}

impl Drive {
    /// `stale`: copies (bit mask) that do not hold the superblock.
    pub(crate) fn new(io: BlockIo, superblock: Superblock, stale: u8) -> Self {
        Self {
            index: u8::try_from(superblock.drive_index).unwrap_or(u8::MAX),
            io,
            zones: superblock.zones,
            superblock: Mutex::new(superblock),
            stale: AtomicU8::new(stale),
            status: AtomicU8::new(0),
        }
    }

    pub(crate) fn status(&self) -> DriveStatus {
        let flags = self.status.load(Ordering::Acquire);
        let worst_first = [DriveStatus::Gone, DriveStatus::Demoted, DriveStatus::ReadOnly];
        let found = worst_first.into_iter().find(|status| flags & status.flag() != 0);
        found.unwrap_or(DriveStatus::Online)
    }

    /// Whether something about what is on it is in doubt, so that only another open can tell.
    pub(crate) fn in_doubt(&self) -> bool {
        self.status.load(Ordering::Acquire) & DriveStatus::ReadOnly.flag() != 0
    }

    pub(crate) fn online(&self) -> bool {
        self.status() == DriveStatus::Online
    }

    /// Takes the drive out of use, as far as the error demands. Said once in the log.
    pub(crate) fn demote(&self, to: DriveStatus, why: &dyn std::fmt::Display) {
        let before = self.status.fetch_or(to.flag(), Ordering::AcqRel);
        if before & to.flag() == 0 {
            tracing::error!(drive = self.io.name(), status = ?to, reason = %why, "drive demoted");
        }
    }

    /// Takes it into use again, if nothing about it is in doubt.
    pub(crate) fn promote(&self) {
        let back = DriveStatus::Demoted.flag() | DriveStatus::Gone.flag();
        self.status.fetch_and(!back, Ordering::AcqRel);
    }

    /// Notes what an I/O error says about the drive itself.
    pub(crate) fn note(&self, error: &StoreError) {
        match error.io_kind() {
            Some(IoErrorKind::Gone) => self.demote(DriveStatus::Gone, error),
            Some(IoErrorKind::Demoted) => self.demote(DriveStatus::Demoted, error),
            _ => {}
        }
    }

    pub(crate) fn failed(&self, reason: impl Into<String>) -> StoreError {
        StoreError::DriveFailed { drive: self.io.name().to_owned(), reason: reason.into() }
    }

    /// Offset of a location plus `bytes`, which the location's slot holds.
    pub(crate) fn offset(&self, location: Location, bytes: u64) -> Result<u64, StoreError> {
        match self.zones.data_offset(location.chunk, location.block.into()) {
            Some(offset) => Ok(offset + bytes),
            None => Err(self.failed(format!(
                "chunk {} block {} does not exist on it",
                location.chunk, location.block
            ))),
        }
    }

    /// Writes the next superblock, changed by `change`, to all copies; three must succeed.
    pub(crate) fn update_superblock(
        &self,
        change: impl FnOnce(&mut Superblock),
    ) -> Result<(), StoreError> {
        let mut current = crate::turns::lock(&self.superblock);
        let mut next = current.successor();
        change(&mut next);
        match write_superblock(&self.io, &next, self.stale.load(Ordering::Relaxed)) {
            Ok(failed) => {
                self.stale.store(failed, Ordering::Relaxed);
                *current = next;
                Ok(())
            }
            Err(error) => {
                // Any of them may hold either.
                self.stale.store(ALL_COPIES, Ordering::Relaxed);
                Err(error)
            }
        }
    }
}

/// Writes a superblock to its four copies, one after the other; three must succeed. Tells which one did
/// not (bit mask).
///
/// Those that do not hold the superblock before (`stale`) come first: so at any time two copies agree, on
/// the one before or on this one, if two did at the beginning. For the same reason nothing more is
/// written once two have failed.
pub(crate) fn write_superblock(
    io: &BlockIo,
    superblock: &Superblock,
    stale: u8,
) -> Result<u8, StoreError> {
    let block = superblock.encode();
    let offsets = superblock.zones.superblock_offsets();
    let mut order = [0_usize, 1, 2, 3];
    order.sort_by_key(|copy| stale & 1 << copy == 0);
    let mut failed = 0;
    for copy in order {
        let Some(&offset) = offsets.get(copy) else { continue };
        if let Err(error) = io.write(offset, &block, true) {
            tracing::warn!(drive = io.name(), offset, %error, "superblock copy not written");
            if failed != 0 {
                return Err(error);
            }
            failed |= 1 << copy;
        }
    }
    Ok(failed)
}

/// What the four superblock copies of a drive say.
#[derive(Debug)]
pub(crate) struct Copies {
    /// The superblock that counts.
    pub(crate) superblock: Superblock,
    /// Copies (bit mask) that do not hold it.
    pub(crate) stale: u8,
}

/// Reads and weighs the superblock copies (`docs/format.md`, section 2).
///
/// `formatted` is the capacity that the pool is thought to have been formatted over, if it is known.
pub(crate) fn read_superblock(io: &BlockIo, formatted: Option<u64>) -> Result<Copies, StoreError> {
    let capacity = io.engine.geometry().capacity;
    let unopenable =
        |reason: String| StoreError::Unopenable { drive: io.name().to_owned(), reason };
    let (mut good, first_error) = decode_copies(io, ZoneMap::copies(capacity))?;
    if let Some(formatted) = formatted.filter(|&bytes| good.len() < 2 && bytes < capacity) {
        let hinted = decode_copies(io, ZoneMap::copies(formatted))?.0;
        if hinted.len() > good.len() {
            good = hinted;
        }
    }
    // A drive or image that has grown or shrunk has its copies where its old size puts them.
    if let Some(stated) = good.first().map(|(_, s)| s.zones.capacity)
        && good.len() < 2
        && ZoneMap::copies(stated) != ZoneMap::copies(capacity)
    {
        if stated > capacity {
            return Err(truncated(io, stated));
        }
        good = decode_copies(io, ZoneMap::copies(stated))?.0;
    }
    let needed = if canary::on(Canary::SuperblockQuorumOfOne) { 1 } else { 2 };
    let all = || good.iter().map(|(_, superblock)| superblock);
    let agreed = |s: &&Superblock| all().filter(|other| other == s).count() >= needed;
    if let Some(superblock) = all().filter(agreed).max_by_key(|s| s.sequence).cloned() {
        let places = superblock.zones.superblock_offsets();
        let holds = |at: u64| good.iter().any(|(place, s)| *place == at && *s == superblock);
        let bad = (0..).zip(places).filter(|(_, at)| !holds(*at));
        let stale = bad.fold(0, |mask, (copy, _): (u8, u64)| mask | 1 << copy);
        return Ok(Copies { superblock, stale });
    }
    match good.len() {
        0 => Err(first_error),
        _ if all().all(|s| s.state == DriveState::Formatting) => {
            Err(unopenable("formatting was cut short; format it again".to_owned()))
        }
        n => Err(unopenable(format!(
            "{n} of 4 superblock copies are readable and no two agree; run `gcos fsck --repair`"
        ))),
    }
}

/// The drive is smaller than its pool.
pub(crate) fn truncated(io: &BlockIo, formatted: u64) -> StoreError {
    let capacity = io.engine.geometry().capacity;
    StoreError::Unopenable {
        drive: io.name().to_owned(),
        reason: format!(
            "it has {capacity} bytes and was formatted with {formatted}: the image is truncated or \
             the namespace was made smaller; restore its size"
        ),
    }
}

/// The copies that decode, with their places, and the most telling error of those that do not.
fn decode_copies(
    io: &BlockIo,
    at: [u64; 4],
) -> Result<(Vec<(u64, Superblock)>, StoreError), StoreError> {
    let mut good = Vec::new();
    let mut worst =
        StoreError::NotAPool { drive: io.name().to_owned(), found: "no superblock".to_owned() };
    for offset in at {
        if offset + BLOCK_BYTES as u64 > io.engine.geometry().capacity {
            continue;
        }
        let decoded = match io.read(offset, BLOCK_BYTES) {
            Ok(block) => Superblock::decode(&block),
            Err(error) if error.io_kind() == Some(IoErrorKind::Gone) => return Err(error),
            Err(error) => {
                tracing::warn!(drive = io.name(), offset, %error, "superblock copy unreadable");
                continue;
            }
        };
        match decoded {
            Ok(superblock) => good.push((offset, superblock)),
            Err(gcos_layout::media::FormatError::Magic { .. }) => {}
            Err(source) => {
                let at = format!("superblock copy at offset {offset}");
                worst = StoreError::Format { drive: io.name().to_owned(), at, source };
            }
        }
    }
    Ok((good, worst))
}
