use std::path::PathBuf;
use std::sync::Arc;

use gcos_cuda::cufile::{BufferBudget, CuFile, CuFileHandle};
use gcos_cuda::{DeviceMemory, Rung};

use super::cufile::{ByCuFile, CuFileRules};
use super::mover::Mover;
use super::staged::ByStaging;
use super::{DeviceEngine, HostDriven};
use crate::{Engine, FileEngine, IoError, IoErrorKind};

/// Whether cuFile moves blocks between a file or block device and a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CuFileUse {
    /// Never.
    Never,
    /// Where it works.
    Prefer,
    /// It must: where it does not work, there is no engine, and what it fails is not done in another way.
    Require,
}

/// How [`file_device`] moves blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDeviceOptions {
    /// Whether cuFile does.
    pub cufile: CuFileUse,
    /// The file of cuFile's library; `None` looks for it ([`gcos_cuda::cufile::places`]).
    pub library: Option<PathBuf>,
    /// Most GPU memory that is registered with cuFile, in MiB: 1 MiB for each thread is wanted. Only nvidia-fs
    /// gains by it.
    pub cufile_buffer_mib: u64,
    /// Threads that call cuFile.
    pub workers: usize,
    /// Most pinned host memory of the way without cuFile, in bytes.
    pub staging_bytes: usize,
}

impl Default for FileDeviceOptions {
    fn default() -> Self {
        Self {
            cufile: CuFileUse::Prefer,
            library: None,
            cufile_buffer_mib: 512,
            workers: 8,
            staging_bytes: 32 << 20,
        }
    }
}

/// The best way between the drive of `file` and the GPU of `memory`: cuFile, else pieces through pinned host
/// memory. Memory that lies in host memory ([`Rung::Staging`]) needs neither: the kernel reaches it.
///
/// [`DeviceEngine::path`] says which it became, and why no better one.
///
/// # Errors
/// [`IoErrorKind::Invalid`] when the memory belongs to another address space than the engine's, or cuFile is
/// required and does not work; [`IoErrorKind::Device`] when there are no threads or streams.
pub fn file_device(
    file: &Arc<FileEngine>,
    memory: &Arc<DeviceMemory>,
    options: &FileDeviceOptions,
) -> Result<Arc<dyn DeviceEngine>, IoError> {
    let refused = match by_cufile(file, memory, options) {
        Ok(mover) => return ordered(mover, memory),
        Err(reason) if options.cufile == CuFileUse::Require => {
            let detail = format!("cuFile was asked for and cannot be used: {reason}");
            let name = &file.geometry().name;
            return Err(IoError::about(name, IoErrorKind::Invalid, "open", detail));
        }
        Err(reason) => vec![reason],
    };
    let engine = Arc::clone(file) as Arc<dyn Engine>;
    match memory.rung() {
        Rung::Staging => {
            let driven = HostDriven::with_reasons(engine, Arc::clone(memory), refused)?;
            Ok(Arc::new(driven))
        }
        _ => ordered(ByStaging::new(engine, memory, options.staging_bytes, refused)?, memory),
    }
}

/// What moves blocks by cuFile; or why it does not.
fn by_cufile(
    file: &Arc<FileEngine>,
    memory: &Arc<DeviceMemory>,
    options: &FileDeviceOptions,
) -> Result<ByCuFile, String> {
    let handle = register(file, memory, options)?;
    let engine = Arc::clone(file) as Arc<dyn Engine>;
    let staging = ByStaging::new(engine, memory, options.staging_bytes, Vec::new());
    let staging = staging.map_err(|error| error.detail)?;
    let rules = CuFileRules::new(options.workers, options.cufile == CuFileUse::Prefer);
    let budget = BufferBudget::of_mib(options.cufile_buffer_mib);
    let mover = ByCuFile::new(Arc::clone(file), handle, memory.gpu(), staging, &budget, rules);
    mover.map_err(|error| error.detail)
}

fn ordered(
    mover: impl Mover + 'static,
    memory: &Arc<DeviceMemory>,
) -> Result<Arc<dyn DeviceEngine>, IoError> {
    Ok(Arc::new(HostDriven::over(Arc::new(mover), Arc::clone(memory))?))
}

/// The drive's file, known to cuFile; or why not.
fn register(
    file: &FileEngine,
    memory: &DeviceMemory,
    options: &FileDeviceOptions,
) -> Result<Arc<CuFileHandle>, String> {
    if options.cufile == CuFileUse::Never {
        return Err("cuFile is switched off".to_owned());
    }
    if memory.rung() == Rung::Staging && options.cufile == CuFileUse::Prefer {
        return Err("cuFile saves nothing: the GPU's memory for drives lies in host memory".into());
    }
    let target = file.target();
    if !target.is_direct() {
        return Err("cuFile wants a file that takes direct I/O".to_owned());
    }
    let cufile = match &options.library {
        Some(library) => CuFile::open_at(library),
        None => CuFile::open(),
    };
    let cufile = cufile.map_err(|error| error.to_string())?;
    // A descriptor of its own: cuFile knows files by their descriptors.
    let fd = target.fd().try_clone_to_owned();
    let fd = fd.map_err(|error| format!("no further descriptor of the file: {error}"))?;
    CuFileHandle::register(&cufile, fd).map_err(|error| error.to_string())
}
