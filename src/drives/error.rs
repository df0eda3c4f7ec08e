use std::io;
use std::path::PathBuf;

use gcos_emulator::EmulatorError;
use gcos_hw::HwError;
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
        "{real} is a real drive and {software} is emulated; the drives of a pool share one address \
         space, so they must be all of one kind"
    )]
    Mixed {
        /// An entry of the one kind.
        real: String,
        /// An entry of the other.
        software: String,
    },
    /// A device or file behind the kernel.
    #[error(
        "{path}: the kernel's I/O path is not part of this version; to try GCOS on an image file, \
         write emulated:FILE in disk.paths"
    )]
    NoKernelPath {
        /// The entry.
        path: String,
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
            OpenError::NoImage { .. }
            | OpenError::Exchanged { .. }
            | OpenError::Short { .. }
            | OpenError::Emulator { .. }
            | OpenError::Controller { .. }
            | OpenError::BlockSize { .. } => true,
            _ => false,
        }
    }
}
