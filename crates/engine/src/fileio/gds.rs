use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gcos_cuda::cufile::{CuFile, CuFileError, CuFileHandle, CuFileMode};
use gcos_cuda::{ForeignMemory, Gpu, GpuError, PinnedSlice, Stream};

use super::FileIoError;
use super::open::{Opened, Purpose, is_whole};
use super::staging::{Range, Staging, failed};

/// How bytes go between a file and GPU memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StorageMode {
    /// The drive writes into the GPU's memory and reads from it (nvidia-fs or P2PDMA).
    GdsDirect,
    /// cuFile moves them with the processor.
    Compatibility,
    /// They go through pinned host memory, without cuFile.
    Staging,
}

impl StorageMode {
    /// Stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GdsDirect => "gds_direct",
            Self::Compatibility => "compatibility",
            Self::Staging => "staging",
        }
    }

    fn of(mode: CuFileMode) -> Self {
        match mode {
            CuFileMode::Direct | CuFileMode::PeerToPeer => Self::GdsDirect,
            CuFileMode::Compatibility => Self::Compatibility,
        }
    }
}

impl fmt::Display for StorageMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GdsDirect => "GDS direct",
            Self::Compatibility => "cuFile in compatibility mode",
            Self::Staging => "pinned host memory",
        })
    }
}

/// How [`GdsFileIo`] works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GdsOptions {
    /// Whether cuFile is used where it works.
    pub enable_gds: bool,
    /// The file of cuFile's library; `None` looks for it.
    pub library: Option<PathBuf>,
    /// Pinned host memory of each transfer that goes without cuFile and brings none, in bytes.
    pub staging_bytes: usize,
    /// Time for the work before a transfer in its stream, and for each copy of the GPU. The kernel's part of a
    /// transfer has none: its calls cannot be given up.
    pub deadline: Duration,
    /// Whether written bytes survive a loss of power when a write returns, in a file that was just made, too.
    /// Folders that were just made are not made durable.
    pub durable: bool,
}

impl Default for GdsOptions {
    fn default() -> Self {
        Self {
            enable_gds: true,
            library: None,
            staging_bytes: 8 << 20,
            deadline: Duration::from_secs(60),
            durable: false,
        }
    }
}

/// A transfer that went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transferred {
    /// Bytes moved: all that were asked for.
    pub bytes: u64,
    /// How.
    pub mode: StorageMode,
    /// Why not in the mode of the whole, if it was another.
    pub fallback: Option<String>,
}

/// Moves bytes between files and the memory of one GPU. It may be used by many threads at a time.
#[derive(Debug)]
pub struct GdsFileIo {
    gpu: Arc<Gpu>,
    cufile: Option<Arc<CuFile>>,
    reason: String,
    staging: Staging,
    options: GdsOptions,
}

impl GdsFileIo {
    /// Finds out whether cuFile works; [`GdsFileIo::storage_mode`] tells.
    #[must_use]
    pub fn new(gpu: &Arc<Gpu>, options: GdsOptions) -> Self {
        let opened = match (options.enable_gds, &options.library) {
            (false, _) => Err("cuFile is switched off".to_owned()),
            (true, Some(library)) => CuFile::open_at(library).map_err(|error| error.to_string()),
            (true, None) => CuFile::open().map_err(|error| error.to_string()),
        };
        let (cufile, reason) = match opened {
            Ok(cufile) => (Some(cufile), String::new()),
            Err(reason) => (None, reason),
        };
        let staging = Staging::new(gpu, options.staging_bytes);
        let made = Self { gpu: Arc::clone(gpu), cufile, reason, staging, options };
        let (gpu, mode) = (gpu.ordinal(), made.storage_mode());
        tracing::info!(gpu, %mode, reason = made.reason, "files and GPU memory");
        made
    }

    /// The GPU.
    #[must_use]
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// How bytes go where nothing speaks against it. Each transfer says how it went.
    #[must_use]
    pub fn storage_mode(&self) -> StorageMode {
        self.cufile.as_ref().map_or(StorageMode::Staging, |cufile| StorageMode::of(cufile.mode()))
    }

    /// Why cuFile is not used; empty where it is.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Writes `size` bytes of GPU memory at `address` to the file at `offset`, after the work before it in the
    /// stream; the file is made if it does not exist. Returns when they are written. `staging` is pinned host
    /// memory to use if cuFile does not do it.
    ///
    /// Any offset and size will do: what is no multiple of 4096 goes through host memory.
    ///
    /// # Errors
    /// [`FileIoError`], which says of each argument what was expected.
    pub fn write_to_file(
        &self,
        path: &Path,
        address: u64,
        size: usize,
        offset: u64,
        stream: &Stream,
        staging: Option<&PinnedSlice>,
    ) -> Result<Transferred, FileIoError> {
        let memory = self.ready(address, size, offset, stream)?;
        self.transfer(path, offset, &memory, Purpose::Write, staging)
    }

    /// Reads `size` bytes of the file from `offset` on to GPU memory at `address`, after the work before it in
    /// the stream. Returns when they are there. As [`GdsFileIo::write_to_file`] else.
    ///
    /// # Errors
    /// [`FileIoError`]; [`FileIoError::PastEnd`] when the file ends before the range does.
    pub fn read_file(
        &self,
        path: &Path,
        address: u64,
        size: usize,
        offset: u64,
        stream: &Stream,
        staging: Option<&PinnedSlice>,
    ) -> Result<Transferred, FileIoError> {
        let memory = self.ready(address, size, offset, stream)?;
        self.transfer(path, offset, &memory, Purpose::Read, staging)
    }

    fn transfer(
        &self,
        path: &Path,
        offset: u64,
        memory: &ForeignMemory,
        purpose: Purpose,
        given: Option<&PinnedSlice>,
    ) -> Result<Transferred, FileIoError> {
        let file = &Opened::open(path, purpose)?;
        let range = Range { file, path, offset, memory, deadline: self.options.deadline };
        let is_there = || match purpose {
            Purpose::Read => file.ends_after(path, offset + memory.len() as u64),
            Purpose::Write => Ok(()),
        };
        is_there()?;
        let done = match self.by_cufile(&range, purpose)? {
            Ok(done) => done,
            Err(reason) => {
                let done = self.by_staging(&range, purpose, given, reason)?;
                // What was shortened meanwhile was read as zeros.
                is_there()?;
                done
            }
        };
        if purpose == Purpose::Write && self.options.durable {
            file.make_durable(path).map_err(|source| {
                let (path, size) = (path.to_owned(), memory.len() as u64);
                FileIoError::Io { what: "synchronising", path, offset, size, source }
            })?;
        }
        Ok(done)
    }

    /// Looks at the arguments, and waits for the work before in the stream.
    fn ready(
        &self,
        address: u64,
        size: usize,
        offset: u64,
        stream: &Stream,
    ) -> Result<ForeignMemory, FileIoError> {
        let end = offset.checked_add(size as u64).and_then(|end| i64::try_from(end).ok());
        if end.is_none() {
            let (what, expected) = ("end of a range of a file", "less than 2^63");
            return Err(FileIoError::Invalid { what, expected, got: offset });
        }
        let memory = ForeignMemory::check(&self.gpu, address, size).map_err(FileIoError::Memory)?;
        let before = "the work before a transfer in its stream";
        let gpu_failed = |source: GpuError| FileIoError::Gpu { what: before, source };
        if !stream.gpu().same(&self.gpu) {
            return Err(FileIoError::Invalid {
                what: "GPU of the stream",
                expected: "the GPU of the memory",
                got: stream.gpu().ordinal() as u64,
            });
        }
        let event = stream.record().map_err(gpu_failed)?;
        event.synchronize(self.options.deadline).map_err(gpu_failed)?;
        Ok(memory)
    }

    /// Lets cuFile do it; or says why it does not.
    ///
    /// # Errors
    /// Those of the drive and the file system, which another way would meet as well.
    fn by_cufile(
        &self,
        range: &Range<'_>,
        purpose: Purpose,
    ) -> Result<Result<Transferred, String>, FileIoError> {
        let &Range { file, path, offset, memory, .. } = range;
        let Some(cufile) = &self.cufile else { return Ok(Err(self.reason.clone())) };
        let Some(direct) = &file.direct else {
            return Ok(Err("the file system takes no direct I/O".to_owned()));
        };
        let size = memory.len();
        if !is_whole(offset, size) {
            return Ok(Err("offset and size are not both multiples of 4096".to_owned()));
        }
        let handle = direct.file().try_clone().map_err(|error| error.to_string());
        let handle = handle.and_then(|file| {
            CuFileHandle::register(cufile, file.into()).map_err(|error| error.to_string())
        });
        let handle = match handle {
            Ok(handle) => handle,
            Err(reason) => return Ok(Err(reason)),
        };
        let moved = match purpose {
            Purpose::Read => handle.read(memory, offset, None),
            Purpose::Write => handle.write(memory, offset, None).map(|()| size),
        };
        let mode = StorageMode::of(handle.mode());
        match moved {
            Ok(bytes) if bytes == size => {
                Ok(Ok(Transferred { bytes: size as u64, mode, fallback: None }))
            }
            Ok(bytes) => Ok(Err(format!("cuFile read {bytes} of {size} bytes"))),
            Err(CuFileError::Os { source, .. }) if is_the_drives(&source) => {
                Err(failed(path, purpose, (offset, size), source))
            }
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    fn by_staging(
        &self,
        range: &Range<'_>,
        purpose: Purpose,
        given: Option<&PinnedSlice>,
        reason: String,
    ) -> Result<Transferred, FileIoError> {
        self.staging.transfer(range, purpose, given)?;
        if self.cufile.is_some() {
            let path = range.path.display();
            tracing::debug!(%path, reason, "a transfer went through host memory");
        }
        let fallback = self.cufile.is_some().then_some(reason);
        let bytes = range.memory.len() as u64;
        Ok(Transferred { bytes, mode: StorageMode::Staging, fallback })
    }
}

/// Whether an error is of the drive or the file system, so that another way would meet it, too. Others are of the
/// kernel's rules for direct I/O.
fn is_the_drives(error: &std::io::Error) -> bool {
    const RULES: [i32; 3] = [14, 22, 95];
    !error.raw_os_error().is_some_and(|number| RULES.contains(&number))
}
