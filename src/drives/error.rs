use std::io;
use std::path::PathBuf;

use gcos_emulator::EmulatorError;
use gcos_engine::{FileEngineError, IoError, KernelPath};
use gcos_hw::HwError;
use gcos_hw::kernel::KernelError;
use gcos_hw::pci::NamesError;
use gcos_hw::vfio::VfioError;

use super::SkippedDrive;
use crate::config::PathError;

/// Why a drive, or every drive, could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A drive behind VFIO could not be opened.
    #[error("{path}: the drive could not be opened")]
    Vfio {
        /// The entry.
        path: String,
        /// Why, and what to do.
        #[source]
        source: VfioError,
    },
    /// A name leads to no drive.
    #[error("{path}: the name leads to no drive")]
    Name {
        /// The entry.
        path: String,
        /// Why, and what to do.
        #[source]
        source: NamesError,
    },
    /// The name leads to another drive than it was recorded for.
    #[error(
        "{path} was recorded for the drive with serial number {recorded}, and {found} is there now: \
         the bus has been renumbered or the drive exchanged; `gcos devices` lists the drives, and \
         `gcos bind ADDRESS --as {path}` records the name anew"
    )]
    Exchanged {
        /// The entry.
        path: String,
        /// Serial number that was recorded.
        recorded: String,
        /// Serial number that the drive states.
        found: String,
    },
    /// Real and software drives in one pool.
    #[error(
        "{real} is a drive behind VFIO and {software} is emulated; the drives of a pool share one address \
         space, so they must be all of one kind. Block devices and plain files go with either"
    )]
    Mixed {
        /// An entry of the one kind.
        real: String,
        /// An entry of the other.
        software: String,
    },
    /// An entry that has no queues was to be opened as one that has.
    #[error("{path}: there is no controller behind it")]
    NoQueues {
        /// The entry.
        path: String,
    },
    /// There is no such device or file.
    #[error(
        "{path:?}: there is no such block device or file; `gcos zone-format` makes plain files, and \
         `gcos devices` lists the drives"
    )]
    NoFile {
        /// What was looked for.
        path: PathBuf,
    },
    /// A block device or file cannot be opened. The message names it.
    #[error(transparent)]
    Kernel(KernelError),
    /// The file system has no direct I/O, which is asked for.
    #[error(
        "{path:?}: the file system ({file_system}) has no direct I/O, and {by} asks for it; turn that \
         off to go through the page cache, or use a block device or a file on ext4, XFS or btrfs"
    )]
    NoDirect {
        /// The file.
        path: PathBuf,
        /// What the file system is.
        file_system: String,
        /// What asks for it: a field, or a variable of the environment.
        by: &'static str,
    },
    /// Its blocks are larger than those of the pool.
    #[error(
        "{path}: reads and writes must be multiples of {got} bytes there, and disk.block_size is \
         {expected}; a pool that is formatted with disk.block_size {got} can be kept on it"
    )]
    Blocks {
        /// The entry.
        path: String,
        /// Bytes of a block there.
        got: u32,
        /// `disk.block_size`.
        expected: u32,
    },
    /// A way was forced that does not work.
    #[error("{path}: {by} forces {way}, which cannot be used: {reason}")]
    Forced {
        /// The entry.
        path: String,
        /// What forces it: a field, or a variable of the environment.
        by: &'static str,
        /// The way.
        way: KernelPath,
        /// Why not, and what to do.
        reason: String,
    },
    /// cuFile was forced between a drive and a GPU, and does not work.
    #[error("{path}: {by} forces cufile, which cannot be used with GPU {gpu}")]
    ForcedCuFile {
        /// The entry.
        path: String,
        /// What forces it.
        by: &'static str,
        /// The GPU's number, from 0.
        gpu: usize,
        /// Why not.
        #[source]
        source: Box<IoError>,
    },
    /// A way through the kernel was forced, and no drive goes through the kernel.
    #[error(
        "{by} forces {way}, and neither an entry of disk.paths nor fallback.path is a block device or a \
         plain file; take it out, or name one"
    )]
    NothingToForce {
        /// What forces it.
        by: &'static str,
        /// The way.
        way: &'static str,
    },
    /// No engine over a block device or file.
    #[error("{path}: it cannot be driven through the kernel")]
    File {
        /// The entry.
        path: String,
        /// Why.
        #[source]
        source: FileEngineError,
    },
    /// Its ways cannot be watched together.
    #[error("{path}: its ways cannot be watched together (section fallback)")]
    Watch {
        /// The entry.
        path: String,
        /// Why.
        #[source]
        source: Box<IoError>,
    },
    /// There is no room for a new file.
    #[error(
        "{path:?}: its file system has no room for {bytes} bytes (disk.capacity_bytes); the file was \
         not made"
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// Bytes that were asked for.
        bytes: u64,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The entry says nothing.
    #[error("disk.paths entry {path:?}")]
    Path {
        /// The entry.
        path: String,
        /// What is wrong with it.
        #[source]
        source: PathError,
    },
    /// There is no image file.
    #[error("{path:?}: there is no such image file; `gcos zone-format` creates it")]
    NoImage {
        /// The file.
        path: PathBuf,
    },
    /// The image file could not be made.
    #[error("image file {path:?} cannot be created")]
    Create {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The image file has fewer bytes than are to be used of it.
    #[error(
        "{path:?} has {got} bytes and disk.capacity_bytes asks for {expected}: the image has been cut \
         short, or belongs to another configuration"
    )]
    Short {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        got: u64,
        /// `disk.capacity_bytes`.
        expected: u64,
    },
    /// Somebody else has the image open.
    #[error(
        "{path:?} is in use by another process (or twice in disk.paths); one at a time may own it"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The software controller could not be made.
    #[error("{path}: the software controller did not start")]
    Emulator {
        /// The entry.
        path: String,
        /// Why.
        #[source]
        source: EmulatorError,
    },
    /// The controller could not be brought up.
    #[error("{path}: the controller could not be brought up")]
    Controller {
        /// The entry.
        path: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The drive has another logical block size.
    #[error(
        "{path}: no active namespace among ids 1 to {namespaces} has blocks of {expected} bytes \
         (disk.block_size); {found}"
    )]
    BlockSize {
        /// The entry.
        path: String,
        /// `disk.namespace_number`.
        namespaces: u32,
        /// `disk.block_size`.
        expected: u32,
        /// What there is instead.
        found: String,
    },
    /// A GPU cannot be had, or cannot drive queues.
    #[error(
        "GPU {gpu} (namespace.gpu.num) cannot be used: {reason}; ask for fewer, or set \
         namespace.gpu.fallback to let the pool do without"
    )]
    Gpu {
        /// Its number, from 0.
        gpu: usize,
        /// Why, and what to do.
        reason: String,
    },
    /// Memory or addresses ran out.
    #[error("no address space for the drives")]
    Memory(#[from] HwError),
    /// No drive is left.
    #[error("none of the {} drives could be opened; the first: {}: {}", skipped.len(),
        skipped.first().map_or("", |s| &s.path), skipped.first().map_or("", |s| &s.reason))]
    NoneLeft {
        /// Every drive and its reason.
        skipped: Vec<SkippedDrive>,
    },
}

impl OpenError {
    /// Whether the drive itself is missing or unusable, which `pool.allow_missing` tolerates. An entry
    /// that can never be opened, or a drive that somebody else uses, is not.
    pub(super) fn is_missing_drive(&self) -> bool {
        match self {
            OpenError::Vfio { source, .. } => source.is_gone(),
            OpenError::Name { source, .. } => {
                matches!(source, NamesError::Gone { .. } | NamesError::Exchanged { .. })
            }
            OpenError::Kernel(source) => super::kernel::is_gone(source),
            OpenError::NoFile { .. }
            | OpenError::NoImage { .. }
            | OpenError::Exchanged { .. }
            | OpenError::Short { .. }
            | OpenError::Emulator { .. }
            | OpenError::Controller { .. }
            | OpenError::BlockSize { .. } => true,
            _ => false,
        }
    }
}
