use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::KernelError;

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
    /// For reading alone; others may read at the same time.
    pub read_only: bool,
}

/// A block device or a plain file, open and owned by this process alone.
#[derive(Debug)]
pub struct Target {
    file: File,
    path: PathBuf,
    capacity: u64,
    lba_bytes: u32,
    direct: bool,
    block_device: bool,
    file_system: String,
    serial: String,
    model: String,
}

impl Target {
    /// Opens `path`.
    ///
    /// # Errors
    /// [`KernelError`], which names the path, what was expected and what to do.
    pub fn open(path: &Path, options: &TargetOptions) -> Result<Arc<Self>, KernelError> {
        let fail = |what| move |source| KernelError::Os { path: path.to_owned(), what, source };
        let direct = options.direct != Direct::Never;
        let flags = if direct { libc::O_DIRECT } else { 0 };
        let mut open = OpenOptions::new();
        open.read(true).write(!options.read_only).custom_flags(flags);
        let file = open.open(path).map_err(fail("open it"))?;
        let metadata = file.metadata().map_err(fail("read its size"))?;
        Ok(Arc::new(Self {
            file,
            path: path.to_owned(),
            capacity: metadata.len(),
            lba_bytes: 4096,
            direct,
            block_device: metadata.file_type().is_block_device(),
            file_system: String::new(),
            serial: String::new(),
            model: String::new(),
        }))
    }

    /// What was opened, as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Usable size in bytes, a multiple of [`Target::lba_bytes`].
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// What offsets and lengths must be multiples of, in bytes: 512 or 4096. The logical block of a
    /// device; what direct I/O asks for of a file.
    #[must_use]
    pub fn lba_bytes(&self) -> u32 {
        self.lba_bytes
    }

    /// Whether transfers go round the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether it is a block device.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// The file system that a file lies on ("ext4", "xfs" …, a number where it is unknown), "" for a
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

    /// The open descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
