//! What survives a power cut: the bytes that namespaces are made of.

use std::fs::TryLockError;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gcos_hw::{FileIo, MemoryRange, OutOfBounds, SharedMemory};
use parking_lot::Mutex;

use crate::EmulatorError;
use crate::transfer::Transfer;

/// Size that media are a multiple of, and alignment that direct file transfers need, in bytes.
const GRAIN: u64 = 4096;
/// Bytes of zeros written at a time where a file system cannot punch holes.
const ZEROS_BYTES: usize = 1 << 20;

/// Media in memory that were made so far.
static RAM_MEDIA: AtomicU64 = AtomicU64::new(1);

/// Why a transfer between memory and medium failed; the command ends with an error status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MediaError {
    /// The file below failed.
    #[error("medium file transfer failed")]
    File(#[from] io::Error),
    /// A range past the medium or past the command's memory.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// Power was cut: nothing reaches the medium any more.
    #[error("power is off")]
    PowerOff,
}

/// Buffers of one executing thread, reused from command to command.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Memory of the command being executed.
    pub(crate) transfer: Transfer,
    /// Bytes for parsing and comparing.
    pub(crate) bytes: Vec<u8>,
    ranges: Vec<MemoryRange>,
    bounce: Option<Arc<SharedMemory>>,
}

/// Non-volatile storage that a controller can be put in front of, again and again.
///
/// It keeps its bytes when its controller loses power, so a test cuts the power of one controller
/// and starts the next on the same medium.
#[derive(Debug)]
pub struct Medium {
    name: String,
    /// Tells media apart that are in use at the same time; the same file has it again later.
    identity: u64,
    len: u64,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    Ram(SharedMemory),
    File {
        io: FileIo,
        /// Serialises read-modify-write of partly written blocks.
        partial: Mutex<()>,
    },
}

impl Medium {
    /// A medium in memory, zeroed; memory is taken from the system as it is written.
    ///
    /// # Errors
    /// [`EmulatorError::MediumSize`] for a size that is 0 or not a multiple of 4096 bytes,
    /// [`EmulatorError::Hw`] when the system has no memory.
    pub fn ram(bytes: u64) -> Result<Arc<Self>, EmulatorError> {
        let name = "ram".to_owned();
        check_size(&name, bytes)?;
        let Ok(len) = usize::try_from(bytes) else {
            return Err(EmulatorError::MediumSize { name, bytes });
        };
        let backing = Backing::Ram(SharedMemory::anonymous(len)?);
        let identity = RAM_MEDIA.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Self { name, identity, len: bytes, backing }))
    }

    /// A medium in a file that exists, locked for this opener alone. With `direct` the page cache
    /// is bypassed where the file system can.
    ///
    /// # Errors
    /// [`EmulatorError::File`] when the file cannot be opened, [`EmulatorError::Locked`] when
    /// somebody else has it, [`EmulatorError::MediumSize`] for an unusable size.
    pub fn file(path: &Path, direct: bool) -> Result<Arc<Self>, EmulatorError> {
        let fail = |what| move |source| EmulatorError::File { path: path.to_owned(), what, source };
        let io = FileIo::open(path, direct).map_err(fail("open for reading and writing"))?;
        match gcos_hw::lock(io.file(), gcos_hw::Sharing::Nobody) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(EmulatorError::Locked { path: path.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(fail("lock")(source)),
        }
        let len = io.file().metadata().map_err(fail("read the size"))?.len();
        let name = path.display().to_string();
        check_size(&name, len)?;
        let backing = Backing::File { io, partial: Mutex::new(()) };
        let identity = fnv1a(name.as_bytes());
        Ok(Arc::new(Self { name, identity, len, backing }))
    }

    /// The file's path, or `ram`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never true: a medium has at least one block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    /// Whether the medium is a file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self.backing, Backing::File { .. })
    }

    /// Reads bytes that are on the medium, past every cache of a controller. For tests and tools.
    ///
    /// # Errors
    /// An error for a range past the end, or the file's error.
    pub fn peek(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_bytes(offset, out).map_err(io::Error::other)
    }

    /// Changes bytes on the medium behind the controller's back. For tests and tools.
    ///
    /// # Errors
    /// An error for a range past the end, or the file's error.
    pub fn poke(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_bytes(offset, bytes).map_err(io::Error::other)
    }

    pub(crate) fn read(&self, offset: u64, scratch: &mut Scratch) -> Result<(), MediaError> {
        let len = scratch.transfer.len();
        self.check(offset, len as u64)?;
        match &self.backing {
            Backing::Ram(memory) => scratch.transfer.copy_from(memory, to_usize(offset)?)?,
            Backing::File { io, .. } if aligned(io, offset, &scratch.transfer) => {
                scratch.transfer.ranges(&mut scratch.ranges);
                let done = io.read_at(&scratch.ranges, offset);
                scratch.ranges.clear();
                done?;
            }
            Backing::File { io, .. } => {
                let cover = Cover::of(offset, len as u64);
                let bounce = bounce(&mut scratch.bounce, cover.len)?;
                io.read_at(&cover.whole(&bounce), cover.start)?;
                scratch.transfer.copy_from(&bounce, cover.lead)?;
            }
        }
        Ok(())
    }

    pub(crate) fn write(&self, offset: u64, scratch: &mut Scratch) -> Result<(), MediaError> {
        let len = scratch.transfer.len();
        self.check(offset, len as u64)?;
        match &self.backing {
            Backing::Ram(memory) => scratch.transfer.copy_to(memory, to_usize(offset)?)?,
            Backing::File { io, .. } if aligned(io, offset, &scratch.transfer) => {
                scratch.transfer.ranges(&mut scratch.ranges);
                let done = io.write_at(&scratch.ranges, offset);
                scratch.ranges.clear();
                done?;
            }
            Backing::File { io, partial } => {
                let cover = Cover::of(offset, len as u64);
                let bounce = bounce(&mut scratch.bounce, cover.len)?;
                let whole = cover.len == len;
                let _guard = (!whole).then(|| partial.lock());
                if !whole {
                    io.read_at(&cover.whole(&bounce), cover.start)?;
                }
                scratch.transfer.copy_to(&bounce, cover.lead)?;
                io.write_at(&cover.whole(&bounce), cover.start)?;
            }
        }
        Ok(())
    }

    pub(crate) fn read_bytes(&self, offset: u64, out: &mut [u8]) -> Result<(), MediaError> {
        self.check(offset, out.len() as u64)?;
        match &self.backing {
            Backing::Ram(memory) => memory.read(to_usize(offset)?, out)?,
            Backing::File { io, .. } => {
                let cover = Cover::of(offset, out.len() as u64);
                let bounce = bounce(&mut None, cover.len)?;
                io.read_at(&cover.whole(&bounce), cover.start)?;
                bounce.read(cover.lead, out)?;
            }
        }
        Ok(())
    }

    pub(crate) fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<(), MediaError> {
        self.check(offset, bytes.len() as u64)?;
        match &self.backing {
            Backing::Ram(memory) => memory.write(to_usize(offset)?, bytes)?,
            Backing::File { io, partial } => {
                let cover = Cover::of(offset, bytes.len() as u64);
                let bounce = bounce(&mut None, cover.len)?;
                let _guard = partial.lock();
                io.read_at(&cover.whole(&bounce), cover.start)?;
                bounce.write(cover.lead, bytes)?;
                io.write_at(&cover.whole(&bounce), cover.start)?;
            }
        }
        Ok(())
    }

    /// Makes the range read as zeros and gives its space back where that is possible.
    pub(crate) fn zero(&self, offset: u64, len: u64) -> Result<(), MediaError> {
        self.check(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        match &self.backing {
            Backing::Ram(memory) => memory.discard(to_usize(offset)?, to_usize(len)?)?,
            Backing::File { io, .. } => {
                if let Err(error) = io.punch_hole(offset, len) {
                    tracing::debug!(%error, "no hole punched; writing zeros");
                    self.write_zeros(offset, len)?;
                }
            }
        }
        Ok(())
    }

    /// Writes zeros, which take the space that they take.
    pub(crate) fn write_zeros(&self, offset: u64, len: u64) -> Result<(), MediaError> {
        let zeros = vec![0; ZEROS_BYTES.min(to_usize(len)?)];
        let mut done = 0;
        while done < len {
            let take = to_usize(len - done)?.min(zeros.len());
            self.write_bytes(offset + done, zeros.get(..take).unwrap_or_default())?;
            done += take as u64;
        }
        Ok(())
    }

    /// Makes what was written durable (`fdatasync` on a file).
    pub(crate) fn sync(&self) -> Result<(), MediaError> {
        match &self.backing {
            Backing::Ram(_) => Ok(()),
            Backing::File { io, .. } => Ok(io.sync()?),
        }
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), OutOfBounds> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(OutOfBounds {
                offset: usize::try_from(offset).unwrap_or(usize::MAX),
                len: usize::try_from(len).unwrap_or(usize::MAX),
                size: usize::try_from(self.len).unwrap_or(usize::MAX),
            }),
        }
    }
}

fn check_size(name: &str, bytes: u64) -> Result<(), EmulatorError> {
    if bytes == 0 || !bytes.is_multiple_of(GRAIN) {
        return Err(EmulatorError::MediumSize { name: name.to_owned(), bytes });
    }
    Ok(())
}

/// FNV-1a: a name becomes a number that stays the same over runs.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, step)
}

fn to_usize(value: u64) -> Result<usize, OutOfBounds> {
    usize::try_from(value).map_err(|_| OutOfBounds { offset: usize::MAX, len: 0, size: usize::MAX })
}

/// Whether a transfer may go straight between the file and the command's memory.
fn aligned(io: &FileIo, offset: u64, transfer: &Transfer) -> bool {
    let grain = GRAIN as usize;
    !io.is_direct()
        || (offset.is_multiple_of(GRAIN)
            && transfer
                .pieces()
                .all(|(_, at, len)| at.is_multiple_of(grain) && len.is_multiple_of(grain)))
}

/// Whole blocks around a range of the file.
struct Cover {
    start: u64,
    len: usize,
    /// Bytes from `start` to the range.
    lead: usize,
}

impl Cover {
    fn of(offset: u64, len: u64) -> Self {
        let start = offset / GRAIN * GRAIN;
        let end = (offset + len).next_multiple_of(GRAIN);
        Self { start, len: (end - start) as usize, lead: (offset - start) as usize }
    }

    fn whole(&self, memory: &Arc<SharedMemory>) -> [MemoryRange; 1] {
        [MemoryRange { memory: Arc::clone(memory), offset: 0, len: self.len }]
    }
}

/// A page-aligned buffer of at least `len` bytes, kept for the next time.
fn bounce(
    kept: &mut Option<Arc<SharedMemory>>,
    len: usize,
) -> Result<Arc<SharedMemory>, MediaError> {
    if let Some(memory) = kept.as_ref().filter(|memory| memory.len() >= len) {
        return Ok(Arc::clone(memory));
    }
    let memory = Arc::new(SharedMemory::anonymous(len.max(1)).map_err(io::Error::other)?);
    *kept = Some(Arc::clone(&memory));
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IovaTable;
    use gcos_hw::DmaMapper;

    fn file(bytes: u64) -> (tempfile::NamedTempFile, Arc<Medium>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        let medium = Medium::file(file.path(), true).unwrap();
        (file, medium)
    }

    #[test]
    fn unusable_sizes_are_refused_with_the_size() {
        for bytes in [0, 1, 4095, 6144] {
            let error = Medium::ram(bytes).unwrap_err();
            assert!(matches!(error, EmulatorError::MediumSize { bytes: b, .. } if b == bytes));
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(bytes).unwrap();
            let error = Medium::file(file.path(), false).unwrap_err();
            assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Medium::file(Path::new("/nonexistent/medium"), false).unwrap_err();
        assert!(matches!(&error, EmulatorError::File { .. }));
        assert!(error.to_string().contains("/nonexistent/medium"), "{error}");
    }

    #[test]
    fn a_second_opener_is_told_who_it_collides_with() {
        let (file, medium) = file(8192);
        let error = Medium::file(file.path(), false).unwrap_err();
        assert!(matches!(&error, EmulatorError::Locked { path } if path == file.path()));
        drop(medium);
        Medium::file(file.path(), false).unwrap();
    }

    #[test]
    fn every_alignment_reads_what_was_written() {
        let table = IovaTable::new();
        let memory = Arc::new(SharedMemory::anonymous(16 * 4096).unwrap());
        table.map(0x10000, &memory).unwrap();
        let (_file, on_file) = file(32 * 4096);
        for medium in [on_file, Medium::ram(32 * 4096).unwrap()] {
            let mut model = vec![0u8; 32 * 4096];
            let mut rng = fastrand::Rng::with_seed(7);
            let mut scratch = Scratch::default();
            for round in 0..200 {
                let grain = if rng.bool() { 512 } else { 4096 };
                let len = rng.usize(1..=8 * 4096 / grain) * grain;
                let at = rng.usize(0..=(model.len() - len) / grain) * grain;
                let dma = 0x10000 + rng.u64(0..=4096) / 4 * 4;
                scratch.transfer.clear();
                table.pin(dma, len, &mut scratch.transfer).unwrap();
                if rng.bool() {
                    memory.fill(0, memory.len(), round).unwrap();
                    medium.write(at as u64, &mut scratch).unwrap();
                    model[at..at + len].fill(round);
                } else if rng.u8(..) < 64 {
                    medium.zero(at as u64, len as u64).unwrap();
                    model[at..at + len].fill(0);
                }
                medium.read(at as u64, &mut scratch).unwrap();
                let mut out = vec![1; len];
                scratch.transfer.gather(0, &mut out).unwrap();
                assert!(out == model[at..at + len], "round {round}");
            }
            let mut all = vec![0; model.len()];
            medium.peek(0, &mut all).unwrap();
            assert!(all == model);
        }
    }
}
