//! From `disk.paths` to engines: drives behind VFIO or software controllers, block devices and files
//! through the kernel, all in one address space.

mod bring_up;
mod choice;
mod error;
mod gpu;
mod image;
mod kernel;
mod platform;
mod watch;

pub use choice::DriveChoice;
pub use error::OpenError;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gcos_cuda::DeviceMemory;
use gcos_engine::device::Attached;
use gcos_engine::{Engine, FileEngine, HostQueueEngine};
use gcos_hw::DmaSpace;
use gcos_store::{FormatOptions, OpenOptions};

use crate::config::{Config, PathKind};
use crate::status::message_of;
use gpu::Gpus;
use image::Made;
use platform::Platform;

/// A drive that was left out.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SkippedDrive {
    /// Entry of `disk.paths`.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// The drives of a configuration, ready for [`crate::Store::open`].
#[derive(Debug)]
pub struct Drives {
    /// One engine per drive, in the order of `disk.paths`.
    pub engines: Vec<Arc<dyn Engine>>,
    /// The address space that all of them reach.
    pub dma: Arc<DmaSpace>,
    /// Drives that could not be opened.
    pub skipped: Vec<SkippedDrive>,
    /// Which way each of the engines goes, and why; in the same order.
    pub choices: Vec<DriveChoice>,
    /// Position among the engines of the one that is for spill: the file `fallback.path`.
    pub spill: Option<usize>,
    /// Files that were made for this.
    pub created: Vec<PathBuf>,
    /// Memory of the GPUs that were opened, which all drives reach: see [`Engine::device`].
    pub gpus: Vec<Arc<DeviceMemory>>,
    /// GPUs that were asked for and are not used, or do not drive queues themselves, and why.
    pub gpus_refused: Vec<String>,
}

impl Drives {
    /// How a pool on these drives is laid out. `force` erases what they hold.
    #[must_use]
    pub fn format_options(&self, config: &Config, force: bool) -> FormatOptions {
        FormatOptions { spill: self.spill, ..config.format_options(force) }
    }

    /// How the pool on these drives is run.
    #[must_use]
    pub fn open_options(&self, config: &Config) -> OpenOptions {
        OpenOptions { spill: self.spill, ..config.open_options() }
    }
}

/// Opens every drive of a configuration. With `create`, files that are not there are made first, for
/// their owner alone and `disk.capacity_bytes` long (images sparse, plain files with room set aside), and
/// no drive may be missing; without it, drives that are missing are left out where `pool.allow_missing`
/// says so. What was made goes again when this fails.
///
/// # Errors
/// [`OpenError`] of the first drive that may not be left out, or when no drive is left; of a GPU that cannot
/// be had where `namespace.gpu.fallback` is off; of a way that is forced and cannot be used.
pub fn open_drives(config: &Config, create: bool) -> Result<Drives, OpenError> {
    let kinds = platform::kinds(config)?;
    // What can never be opened is said before a GPU is touched.
    Platform::check(&kinds)?;
    kernel::check_force(config)?;
    open_with(config, create, Gpus::open(config)?)
}

fn open_with(config: &Config, create: bool, gpus: Gpus) -> Result<Drives, OpenError> {
    let mut made = Made::default();
    match open_all(config, create.then_some(&mut made), gpus) {
        Ok(drives) => Ok(Drives { created: made.keep(), ..drives }),
        Err(error) => {
            made.discard();
            Err(error)
        }
    }
}

fn open_all(
    config: &Config,
    mut create: Option<&mut Made>,
    gpus: Gpus,
) -> Result<Drives, OpenError> {
    let kinds = platform::kinds(config)?;
    let platform = Platform::of(&kinds)?;
    let lent = gpus.queue_pairs(config);
    let (mut opened, mut skipped) = (Vec::new(), Vec::new());
    let may_skip = config.pool.allow_missing && create.is_none() && kinds.len() > 1;
    // Drives with queues first: they bring the address space.
    let is_kernel = |kind: &PathKind| matches!(kind, PathKind::Kernel(_));
    let (last, first): (Vec<_>, Vec<_>) =
        kinds.iter().enumerate().partition(|(_, (_, kind))| is_kernel(kind));
    for (index, (path, kind)) in first.into_iter().chain(last) {
        let made = create.as_deref_mut();
        match open_one(config, index, (path, kind), &platform, made, lent) {
            Ok((drive, choice)) => opened.push((index, drive, choice)),
            Err(error) if may_skip && error.is_missing_drive() => {
                tracing::warn!(drive = path, %error, "drive left out; its objects are misses");
                let reason = message_of(&error);
                skipped.push(SkippedDrive { path: (*path).to_owned(), reason });
            }
            Err(error) => return Err(error),
        }
    }
    if opened.is_empty() {
        return Err(OpenError::NoneLeft { skipped });
    }
    opened.sort_by_key(|(index, ..)| *index);
    let (mut drives, mut choices) = (Vec::new(), Vec::new());
    for (_, drive, choice) in opened {
        drives.push(drive);
        choices.push(choice);
    }
    let mut spill = None;
    if !config.fallback.path.is_empty() {
        let path = config.fallback.path.as_str();
        let entry = (path, Path::new(path), config.fallback.capacity_bytes);
        let may_skip = config.pool.allow_missing && create.is_none();
        match through_kernel(config, entry, &platform, create) {
            Ok((drive, choice)) => {
                spill = Some(drives.len());
                drives.push(drive);
                choices.push(choice);
            }
            Err(error) if may_skip && error.is_missing_drive() => {
                tracing::warn!(path, %error, "no spill: its file is left out");
                skipped.push(SkippedDrive { path: path.to_owned(), reason: message_of(&error) });
            }
            Err(error) => return Err(error),
        }
    }
    let dma = platform.dma()?;
    let attached = gpus.attach(config, &dma, &drives, &mut choices)?;
    choices.iter().for_each(DriveChoice::say);
    let engine = |(index, drive)| watch::engine(config, drive, spill == Some(index));
    let engines = drives.iter().enumerate().map(engine).collect::<Result<_, _>>()?;
    Ok(Drives {
        engines,
        dma,
        skipped,
        choices,
        spill,
        created: Vec::new(),
        gpus: attached.memories,
        gpus_refused: attached.refused,
    })
}

/// A drive that has been opened.
#[derive(Debug)]
enum Drive {
    /// By queues of its own.
    Queues(Arc<HostQueueEngine>),
    /// Through the kernel, with room for what reaches GPUs.
    File(Arc<FileEngine>, Arc<Attached>),
}

impl Drive {
    fn engine(&self) -> Arc<dyn Engine> {
        match self {
            Self::Queues(engine) => Arc::clone(engine) as Arc<dyn Engine>,
            Self::File(_, engine) => Arc::clone(engine) as Arc<dyn Engine>,
        }
    }
}

fn open_one(
    config: &Config,
    index: usize,
    (path, kind): (&str, &PathKind),
    platform: &Platform,
    create: Option<&mut Made>,
    lent: u16,
) -> Result<(Drive, DriveChoice), OpenError> {
    if let PathKind::Kernel(file) = kind {
        return through_kernel(config, (path, file, config.disk.capacity_bytes), platform, create);
    }
    let (engine, choice) =
        bring_up::drive(config, index, (path, kind), platform.queues(), create, lent)?;
    Ok((Drive::Queues(engine), choice))
}

fn through_kernel(
    config: &Config,
    entry: (&str, &Path, u64),
    platform: &Platform,
    create: Option<&mut Made>,
) -> Result<(Drive, DriveChoice), OpenError> {
    let (engine, choice) = kernel::drive(config, entry, &platform.dma()?, create)?;
    let attached = Attached::new(Arc::clone(&engine) as Arc<dyn Engine>);
    Ok((Drive::File(engine, attached), choice))
}
