//! Block devices and plain files, through the kernel.

use std::io;
use std::path::Path;
use std::sync::Arc;

use gcos_engine::{Engine, FileEngine, FileEngineError, FileOptions, KernelPath};
use gcos_hw::DmaSpace;
use gcos_hw::kernel::{Direct, KernelError, Target, TargetOptions};

use super::OpenError;
use super::choice::DriveChoice;
use super::image::{self, Made};
use crate::config::{Config, KernelWay};

const FORCE: &str = "kernel_path.force";
const DIRECT: &str = "kernel_path.use_direct_io";

/// Whether what is forced can concern any entry.
pub(super) fn check_force(config: &Config) -> Result<(), OpenError> {
    match config.kernel_path.force {
        Some(way) if config.kernel_files().is_empty() => {
            Err(OpenError::NothingToForce { by: config.source_of(FORCE), way: way.name() })
        }
        _ => Ok(()),
    }
}

/// Opens one entry, of which so many bytes are used; with `create`, a plain file that is not there is made first, and noted.
pub(super) fn drive(
    config: &Config,
    (path, file, bytes): (&str, &Path, u64),
    dma: &Arc<DmaSpace>,
    create: Option<&mut Made>,
) -> Result<(Arc<FileEngine>, DriveChoice), OpenError> {
    // A device is never made: a file of its name in /dev would fill memory instead.
    if let Some(made) = create.filter(|_| !is_device_path(file)) {
        image::allocate(file, bytes, made)?;
    }
    let target = open(config, file)?;
    if target.capacity() < bytes {
        let (path, got) = (file.to_owned(), target.capacity());
        return Err(OpenError::Short { path, got, expected: bytes });
    }
    let expected = config.disk.block_size;
    if target.lba_bytes() > expected {
        return Err(OpenError::Blocks { path: path.to_owned(), got: target.lba_bytes(), expected });
    }
    let options = options(config, &target, bytes, forced(config));
    let fail = |source| match source {
        FileEngineError::Forced { path: way, reason, .. } => {
            OpenError::Forced { path: path.to_owned(), by: config.source_of(FORCE), way, reason }
        }
        source => OpenError::File { path: path.to_owned(), source },
    };
    let engine = FileEngine::open(target, Arc::clone(dma), options).map_err(fail)?;
    let choice = DriveChoice::new(path, &*engine, reason(config, &engine));
    Ok((engine, choice))
}

fn options(config: &Config, target: &Target, bytes: u64, force: Option<KernelPath>) -> FileOptions {
    FileOptions {
        force,
        depth: config.kernel_path.queue_depth,
        workers: config.kernel_path.workers as usize,
        capacity: Some(bytes),
        lba_bytes: Some(config.disk.block_size),
        // A file keeps the room that was set aside for it.
        deallocate: target.is_block_device(),
    }
}

/// POSIX calls beside an io_uring on the same target, for when the io_uring is not well.
pub(super) fn next_way(config: &Config, first: &FileEngine) -> Result<Arc<dyn Engine>, OpenError> {
    let target = Arc::clone(first.target());
    let bytes = first.geometry().capacity;
    let options = options(config, &target, bytes, Some(KernelPath::Posix));
    let engine = FileEngine::open(target, Arc::clone(first.dma()), options);
    let path = first.geometry().name.clone();
    Ok(engine.map_err(|source| OpenError::File { path, source })?)
}

/// What requests of the host must use. cuFile is for a GPU's; it leaves the host's choice open.
fn forced(config: &Config) -> Option<KernelPath> {
    match config.kernel_path.force? {
        KernelWay::IoUring => Some(KernelPath::IoUring),
        KernelWay::Posix => Some(KernelPath::Posix),
        KernelWay::CuFile => None,
    }
}

/// Whether a path is one of devices, whether or not there is one.
fn is_device_path(file: &Path) -> bool {
    file.starts_with("/dev") && !file.starts_with("/dev/shm")
}

fn open(config: &Config, file: &Path) -> Result<Arc<Target>, OpenError> {
    let direct = if config.kernel_path.use_direct_io { Direct::Require } else { Direct::Never };
    let options = TargetOptions { direct, read_only: false };
    Target::open(file, &options).map_err(|source| match source {
        KernelError::Os { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            OpenError::NoFile { path: file.to_owned() }
        }
        KernelError::NoDirect { path, file_system } => {
            OpenError::NoDirect { path, file_system, by: config.source_of(DIRECT) }
        }
        source => OpenError::Kernel(source),
    })
}

/// What was found and what decided, in words.
fn reason(config: &Config, engine: &FileEngine) -> String {
    let target = engine.target();
    let mut words = match (target.is_block_device(), target.file_system()) {
        (true, _) => "a block device".to_owned(),
        (false, "") => "a plain file".to_owned(),
        (false, system) => format!("a plain file on {system}"),
    };
    if target.is_direct() {
        words += ", direct I/O";
    } else {
        words += &format!(", page cache ({} is off)", config.source_of(DIRECT));
    }
    match (forced(config), engine.path()) {
        (Some(way), _) => words += &format!("; {} forces {way}", config.source_of(FORCE)),
        (None, KernelPath::IoUring) => words += "; io_uring was tried and works",
        (None, KernelPath::Posix) => words += &format!("; {}", engine.reason()),
    }
    words
}

/// Whether an error of the system says that the drive itself is not there or does not answer.
pub(super) fn is_gone(error: &KernelError) -> bool {
    // ENXIO and ENODEV have no kind of their own.
    const GONE: [i32; 3] = [5, 6, 19];
    match error {
        KernelError::Os { source, .. } => {
            source.raw_os_error().is_some_and(|number| GONE.contains(&number))
        }
        _ => false,
    }
}
