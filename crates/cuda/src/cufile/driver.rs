use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;

use super::abi::{
    CONTROL_ALLOW_COMPAT, DrvPropsRoom, PARAM_USE_PCIP2PDMA, STATUS_NVME, STATUS_NVME_P2P,
};
use super::library::{self, Library};
use super::{CuFileError, places};
use crate::{Gpu, GpuError};

/// How cuFile moves bytes on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CuFileMode {
    /// The kernel module nvidia-fs lets the drive write into the GPU's memory.
    Direct,
    /// The kernel's own peer-to-peer transfers do.
    PeerToPeer,
    /// Neither: the library reads and writes the file with the processor, and copies.
    Compatibility,
}

impl CuFileMode {
    /// Stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::PeerToPeer => "p2pdma",
            Self::Compatibility => "compatibility",
        }
    }
}

impl fmt::Display for CuFileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "GDS direct, by nvidia-fs",
            Self::PeerToPeer => "GDS direct, by the kernel's P2PDMA",
            Self::Compatibility => {
                "compatibility mode: nvidia-fs is not loaded, the processor moves the bytes"
            }
        })
    }
}

/// What the driver of cuFile says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverProperties {
    /// Version of nvidia-fs, major and minor; 0.0 where it is not loaded.
    pub nvidia_fs: (u32, u32),
    /// Whether drives behind NVMe are served.
    pub nvme: bool,
    /// Whether files that cannot be reached directly are read and written by the processor, instead of being
    /// refused.
    pub allow_compatibility: bool,
    /// Most bytes that one transfer of nvidia-fs moves; longer ones are split inside.
    pub max_direct_io_bytes: u64,
    /// GPU memory of the library's own, for memory that is not registered.
    pub max_device_cache_bytes: u64,
    /// Most bytes that may be registered.
    pub max_pinned_bytes: u64,
    /// Most transfers of a batch; 0 where it is not told.
    pub max_batch: u32,
}

/// cuFile, with its driver open. One for each library of the process: who opens it again gets the same.
#[derive(Debug)]
pub struct CuFile {
    library: Library,
    properties: DriverProperties,
    mode: CuFileMode,
    version: Option<i32>,
    key: PathBuf,
}

/// All that are open. The driver is one for the process, so opening and closing take turns.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<CuFile>>>> = LazyLock::new(Mutex::default);

impl CuFile {
    /// Loads the library from where it usually is ([`places`]) and opens its driver.
    ///
    /// # Errors
    /// [`CuFileError::NotFound`], [`CuFileError::Symbol`] for another library of that name, and
    /// [`CuFileError::Call`] when the driver does not open.
    pub fn open() -> Result<Arc<Self>, CuFileError> {
        Self::open_first(&places())
    }

    /// As [`CuFile::open`], with the library of this file.
    ///
    /// # Errors
    /// As there.
    pub fn open_at(library: &Path) -> Result<Arc<Self>, CuFileError> {
        Self::open_first(&[library.to_owned()])
    }

    fn open_first(places: &[PathBuf]) -> Result<Arc<Self>, CuFileError> {
        let mut open = OPEN.lock();
        open.retain(|_, cufile| cufile.strong_count() > 0);
        let library = Library::load(places)?;
        let key = library.path.canonicalize().unwrap_or_else(|_| library.path.clone());
        if let Some(cufile) = open.get(&key).and_then(Weak::upgrade) {
            return Ok(cufile);
        }
        // SAFETY: a function without parameters; it is closed by `drop`.
        let opened = unsafe { (library.driver_open)() };
        library::done("cuFileDriverOpen", opened)?;
        let mut made = Self {
            version: version(&library),
            properties: DriverProperties::default(),
            mode: CuFileMode::Compatibility,
            key: key.clone(),
            library,
        };
        match made.ask() {
            Ok((properties, mode)) => (made.properties, made.mode) = (properties, mode),
            Err(error) => {
                made.close();
                // Closed already.
                std::mem::forget(made);
                return Err(error);
            }
        }
        let made = Arc::new(made);
        tracing::debug!(library = %made.library.path.display(), mode = %made.mode, "cuFile is open");
        open.insert(key, Arc::downgrade(&made));
        Ok(made)
    }

    fn ask(&self) -> Result<(DriverProperties, CuFileMode), CuFileError> {
        let mut room = DrvPropsRoom::default();
        // SAFETY: the pointer is to a live record with room to spare behind it, for a newer library.
        let told = unsafe { (self.library.get_properties)((&raw mut room).cast()) };
        library::done("cuFileDriverGetProperties", told)?;
        let props = room.props;
        let kib = |n: u64| n.saturating_mul(1024);
        let properties = DriverProperties {
            nvidia_fs: (props.nvfs.major_version, props.nvfs.minor_version),
            nvme: props.nvfs.dstatusflags & STATUS_NVME != 0,
            allow_compatibility: props.nvfs.dcontrolflags & CONTROL_ALLOW_COMPAT != 0,
            max_direct_io_bytes: kib(props.nvfs.max_direct_io_size as u64),
            max_device_cache_bytes: kib(props.max_device_cache_size.into()),
            max_pinned_bytes: kib(props.max_device_pinned_mem_size.into()),
            max_batch: props.max_batch_io_size,
        };
        let supported = props.nvfs.dstatusflags & STATUS_NVME_P2P != 0;
        let p2p = supported && self.parameter(PARAM_USE_PCIP2PDMA).unwrap_or(false);
        Ok((properties, mode(properties.nvidia_fs, p2p)))
    }

    /// A switch of the library's configuration; `None` where it does not tell.
    fn parameter(&self, which: u32) -> Option<bool> {
        let get = self.library.get_parameter_bool?;
        let mut value = false;
        // SAFETY: the pointer is to a live value.
        library::done("cuFileGetParameterBool", unsafe { get(which, &mut value) }).ok()?;
        Some(value)
    }

    fn close(&self) {
        // SAFETY: the driver was opened by this value; handles, registrations and batches hold it, so none is
        // left.
        let closed = unsafe { (self.library.driver_close)() };
        if let Err(error) = library::done("cuFileDriverClose", closed) {
            tracing::debug!(%error, "the driver of cuFile was not closed");
        }
    }

    pub(super) fn library(&self) -> &Library {
        &self.library
    }

    /// The library's file, as it was named.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.library.path
    }

    /// The library's version, such as `1.15`; `None` for one that does not tell.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        self.version.map(|version| format!("{}.{}", version / 1000, version % 1000 / 10))
    }

    /// What the driver says of itself.
    #[must_use]
    pub fn properties(&self) -> &DriverProperties {
        &self.properties
    }

    /// How bytes are moved at best. For a single file it may be the compatibility mode all the same, where the
    /// file system is not supported: see [`super::CuFileHandle::mode`].
    #[must_use]
    pub fn mode(&self) -> CuFileMode {
        self.mode
    }
}

/// Which way is taken, by what the driver says.
fn mode(nvidia_fs: (u32, u32), p2p: bool) -> CuFileMode {
    match (nvidia_fs, p2p) {
        (_, true) => CuFileMode::PeerToPeer,
        ((0, 0), false) => CuFileMode::Compatibility,
        (_, false) => CuFileMode::Direct,
    }
}

fn version(library: &Library) -> Option<i32> {
    let mut version = 0;
    // SAFETY: the pointer is to a live value.
    let told = unsafe { (library.get_version?)(&mut version) };
    library::done("cuFileGetVersion", told).ok().map(|()| version)
}

impl Default for DriverProperties {
    fn default() -> Self {
        Self {
            nvidia_fs: (0, 0),
            nvme: false,
            allow_compatibility: true,
            max_direct_io_bytes: 0,
            max_device_cache_bytes: 0,
            max_pinned_bytes: 0,
            max_batch: 0,
        }
    }
}

impl Drop for CuFile {
    fn drop(&mut self) {
        let mut open = OPEN.lock();
        self.close();
        // Somebody may have opened it anew meanwhile; that one stays.
        if open.get(&self.key).is_some_and(|other| other.strong_count() == 0) {
            open.remove(&self.key);
        }
    }
}

/// Does calls of cuFile, which look at the calling thread for the GPU.
pub(super) fn on<R>(gpu: &Gpu, f: impl FnOnce() -> R) -> Result<R, GpuError> {
    gpu.current(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_what_the_driver_can_do() {
        assert_eq!(mode((0, 0), false), CuFileMode::Compatibility);
        assert_eq!(mode((2, 25), false), CuFileMode::Direct);
        assert_eq!(mode((0, 0), true), CuFileMode::PeerToPeer);
        for mode in [CuFileMode::Compatibility, CuFileMode::Direct, CuFileMode::PeerToPeer] {
            assert!(!mode.name().is_empty() && mode.to_string().len() > mode.name().len());
        }
    }
}
