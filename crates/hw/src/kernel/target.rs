use std::fs::{self, File, FileType, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::file_system::{self, Alignment};
use super::sysfs::{self, BlockDevice};
use super::{KernelError, Standing, owner};
use crate::file::to_off;
use crate::lock::{LEAVING, LEAVING_STEP, Sharing, lock};

/// Whether transfers go round the page cache (`O_DIRECT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direct {
    /// They must; opening fails where the file system cannot.
    #[default]
    Require,
    /// They do where the file system can.
    Prefer,
    /// They do not.
    Never,
}

/// How to open a [`Target`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TargetOptions {
    /// Whether to go round the page cache.
    pub direct: Direct,
    /// For reading alone; others may read a file, not a device, at the same time.
    pub read_only: bool,
}

/// A block device or a plain file, open and owned by this process alone.
///
/// Ownership ends with the value. A block device is opened with `O_EXCL`, so that neither a file system
/// nor another program that asks likewise has it at the same time; a file has an advisory lock (flock),
/// which programs that do not ask do not see.
#[derive(Debug)]
pub struct Target {
    file: File,
    path: PathBuf,
    capacity: u64,
    lba_bytes: u32,
    memory_align: u32,
    direct: bool,
    read_only: bool,
    block_device: bool,
    discards: bool,
    file_system: String,
    serial: String,
    model: String,
    standing: Standing,
}

impl Target {
    /// Opens `path`, which may be a link to a block device or a file that exists.
    ///
    /// # Errors
    /// [`KernelError`], which names the path, what was expected and what to do.
    pub fn open(path: &Path, options: &TargetOptions) -> Result<Arc<Self>, KernelError> {
        let fail = |what| move |source| KernelError::Os { path: path.to_owned(), what, source };
        // Looked at before it is opened: opening a tape or a console does things.
        let before = fs::metadata(path).map_err(fail("find it"))?;
        expect_storage(path, &before)?;
        let (file, direct) = open_file(path, options, before.file_type().is_block_device())?;
        let found = file.metadata().map_err(fail("look at it"))?;
        expect_storage(path, &found)?;
        let block_device = found.file_type().is_block_device();
        if block_device {
            Self::of_device(file, path, direct, options, &found)
        } else {
            Self::of_file(file, path, direct, options)
        }
    }

    fn of_device(
        file: File,
        path: &Path,
        direct: bool,
        options: &TargetOptions,
        found: &Metadata,
    ) -> Result<Arc<Self>, KernelError> {
        let fail = |what| move |source| KernelError::Os { path: path.to_owned(), what, source };
        let bytes = sysfs::size_bytes(&file).map_err(fail("read its size"))?;
        let block = sysfs::block_bytes(&file).map_err(fail("read the size of its blocks"))?;
        let memory_align = match file_system::told(&file).filter(|_| direct) {
            Some(told) if told.memory > 0 => told.memory,
            _ => block,
        };
        let device = BlockDevice::of(found.rdev());
        let target = Self {
            capacity: whole_blocks(path, bytes, block)?,
            lba_bytes: block,
            memory_align,
            direct,
            read_only: options.read_only,
            block_device: true,
            discards: device.discards(),
            file_system: String::new(),
            serial: device.serial(),
            model: device.model(),
            standing: Standing::default(),
            path: path.to_owned(),
            file,
        };
        Ok(Arc::new(target))
    }

    fn of_file(
        file: File,
        path: &Path,
        direct: bool,
        options: &TargetOptions,
    ) -> Result<Arc<Self>, KernelError> {
        let fail = |what| move |source| KernelError::Os { path: path.to_owned(), what, source };
        lock_file(&file, path, options.read_only)?;
        // Its former owner may have made it longer until just now.
        let found = file.metadata().map_err(fail("look at it"))?;
        let file_system = file_system::name(&file).map_err(fail("find its file system"))?;
        // What neither the kernel says nor a read shows: the file system took O_DIRECT and cannot.
        let alignment = if direct {
            file_system::told(&file).or_else(|| file_system::probed(&file))
        } else {
            None
        };
        let usable = alignment.filter(Alignment::is_usable);
        if direct && usable.is_none() {
            if options.direct == Direct::Require {
                let (path, there) = (path.to_owned(), alignment.filter(|told| told.offset > 0));
                return Err(match there {
                    None => KernelError::NoDirect { path, file_system },
                    Some(Alignment { memory, offset }) => KernelError::Unusable {
                        path,
                        expected: "direct I/O in blocks of at most 4096 bytes",
                        found: format!("blocks of {offset} bytes, in memory aligned to {memory}"),
                    },
                });
            }
            // The lock goes with this descriptor.
            drop(file);
            let options = TargetOptions { direct: Direct::Never, ..*options };
            let (file, _) = open_file(path, &options, false)?;
            expect_storage(path, &file.metadata().map_err(fail("look at it"))?)?;
            return Self::of_file(file, path, false, &options);
        }
        // Through the page cache any offset will do, so a pool with either block can be kept there.
        let Alignment { memory, offset } = usable.unwrap_or(Alignment { memory: 1, offset: 512 });
        let lba_bytes = if offset <= 512 { 512 } else { 4096 };
        let target = Self {
            capacity: whole_blocks(path, found.len(), lba_bytes)?,
            lba_bytes,
            memory_align: memory,
            direct,
            read_only: options.read_only,
            block_device: false,
            discards: true,
            file_system,
            serial: String::new(),
            model: String::new(),
            standing: Standing::default(),
            path: path.to_owned(),
            file,
        };
        Ok(Arc::new(target))
    }

    /// Anything that can be read from, such as a pipe.
    #[cfg(test)]
    pub(super) fn of_test(file: File) -> Self {
        Self {
            file,
            path: PathBuf::from("test"),
            capacity: 1 << 40,
            lba_bytes: 512,
            memory_align: 1,
            direct: false,
            read_only: false,
            block_device: false,
            discards: false,
            file_system: String::new(),
            serial: String::new(),
            model: String::new(),
            standing: Standing::default(),
        }
    }

    /// What was opened, as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Usable size in bytes, a multiple of [`Target::lba_bytes`], as it was when opened.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// What offsets and lengths must be multiples of, in bytes: 512 or 4096. The logical block of a
    /// device; what direct I/O asks for of a file, 512 without direct I/O.
    #[must_use]
    pub fn lba_bytes(&self) -> u32 {
        self.lba_bytes
    }

    /// What addresses in memory must be multiples of, in bytes; 1 without direct I/O on a file.
    #[must_use]
    pub fn memory_align(&self) -> u32 {
        self.memory_align
    }

    /// Whether transfers go round the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether it was opened for reading alone.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether it is a block device.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// Whether [`Target::discard`] may do something: not on a device without discard. A file system
    /// that cannot punch holes says so only when asked to.
    #[must_use]
    pub fn discards(&self) -> bool {
        self.discards && !self.read_only
    }

    /// The file system that a file lies on ("ext4", "XFS" …, a number where it is unknown), "" for a
    /// block device.
    #[must_use]
    pub fn file_system(&self) -> &str {
        &self.file_system
    }

    /// Serial number of the drive behind a block device, "" where the kernel tells none.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Model of the drive behind a block device, "" where the kernel tells none.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// What every way to this target must know of.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The open descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Makes completed writes durable (`fdatasync`).
    ///
    /// # Errors
    /// The system's error. After one, the kernel may have forgotten what it could not write: writes that
    /// were not durable before must be taken as lost, and a later call that succeeds says nothing.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives a range back: a device discards it, a file gets a hole. What is read there is unspecified
    /// until it is written again.
    ///
    /// # Errors
    /// The system's error; `EOPNOTSUPP` where it cannot be done.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.block_device {
            return sysfs::discard(&self.file, offset, len);
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (offset, len) = (to_off(offset)?, to_off(len)?);
        // SAFETY: a valid descriptor and no pointers.
        match unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // The kernel may close the file a moment later than this, when it takes an io_uring apart. Nothing
        // is under way: whoever leaves something behind keeps the target, too.
        if !self.block_device
            && let Err(error) = self.file.unlock()
        {
            tracing::debug!(%error, path = %self.path.display(), "the file was not unlocked");
        }
    }
}

/// Opens what was found to be storage; whether it is for direct I/O.
fn open_file(
    path: &Path,
    options: &TargetOptions,
    block_device: bool,
) -> Result<(File, bool), KernelError> {
    let owner = || owner::of_device(fs::metadata(path).ok()?.rdev());
    let open = |direct: bool| {
        let mut flags = if direct { libc::O_DIRECT } else { 0 };
        if block_device {
            flags |= libc::O_EXCL;
        }
        // Should it have become a FIFO meanwhile, opening does not wait for its other end.
        flags |= libc::O_NONBLOCK;
        let mut how = OpenOptions::new();
        let file = how.read(true).write(!options.read_only).custom_flags(flags).open(path)?;
        let kept = flags & libc::O_DIRECT;
        // SAFETY: a valid descriptor and no pointers. O_NONBLOCK goes: with it io_uring says EAGAIN.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, kept) } {
            0 => Ok(file),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let open = |direct| {
        let until = Instant::now() + LEAVING;
        loop {
            match open(direct) {
                Err(error)
                    if error.raw_os_error() == Some(libc::EBUSY)
                        && block_device
                        && owner().is_none()
                        && Instant::now() < until =>
                {
                    thread::sleep(LEAVING_STEP);
                }
                other => return other,
            }
        }
    };
    let failed = |source: io::Error| match source.raw_os_error() {
        Some(libc::EBUSY) if block_device => {
            let by = owner().unwrap_or_else(|| owner::UNKNOWN.to_owned());
            KernelError::InUse { path: path.to_owned(), by }
        }
        _ => KernelError::Os {
            path: path.to_owned(),
            what: if options.read_only { "open it for reading" } else { "open it for writing" },
            source,
        },
    };
    if options.direct == Direct::Never {
        return open(false).map(|file| (file, false)).map_err(failed);
    }
    match open(true) {
        // What file systems without direct I/O say.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let file = open(false).map_err(failed)?;
            if options.direct == Direct::Prefer {
                return Ok((file, false));
            }
            let file_system = file_system::name(&file).unwrap_or_else(|_| "unknown".to_owned());
            Err(KernelError::NoDirect { path: path.to_owned(), file_system })
        }
        other => other.map(|file| (file, true)).map_err(failed),
    }
}

fn expect_storage(path: &Path, found: &Metadata) -> Result<(), KernelError> {
    let kind: FileType = found.file_type();
    let found = if kind.is_block_device() || kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "something else"
    };
    Err(KernelError::Kind { path: path.to_owned(), found })
}

/// Locks a file: for this opener alone, or for readers alone.
fn lock_file(file: &File, path: &Path, read_only: bool) -> Result<(), KernelError> {
    let sharing = if read_only { Sharing::Readers } else { Sharing::Nobody };
    match lock(file, sharing) {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(KernelError::InUse {
            path: path.to_owned(),
            by: "another program, or another part of this one, has locked it; end that first"
                .to_owned(),
        }),
        Err(TryLockError::Error(source)) => {
            Err(KernelError::Os { path: path.to_owned(), what: "lock it", source })
        }
    }
}

/// Bytes in whole blocks.
fn whole_blocks(path: &Path, bytes: u64, block: u32) -> Result<u64, KernelError> {
    let unusable =
        |expected, found| Err(KernelError::Unusable { path: path.to_owned(), expected, found });
    if !matches!(block, 512 | 4096) {
        return unusable("blocks of 512 or 4096 bytes", format!("blocks of {block} bytes"));
    }
    match bytes / u64::from(block) * u64::from(block) {
        0 => unusable("a size of at least one block", format!("{bytes} bytes")),
        capacity => Ok(capacity),
    }
}
