//! A stand-in for libcufile: `cufile.c`, built as a shared library, which is loaded as the real one is.

use std::ffi::{c_int, c_long};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io};

use libloading::Library;

/// A stand-in for libcufile, a copy of its own for each value: faults and counts are not shared.
#[derive(Debug)]
pub struct PlayedCuFile {
    folder: PathBuf,
    path: PathBuf,
    library: Library,
}

/// What can be planted. The numbers are those of `cufile.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CuFileFault {
    /// The driver does not open: the code.
    Open = 0,
    /// Files are not registered: the code.
    Register,
    /// Memory is not registered: the code.
    BufRegister,
    /// Reads end with a code of cuFile.
    ReadCode,
    /// Writes do.
    WriteCode,
    /// Reads end with an error of the system: the `errno`.
    ReadErrno,
    /// Writes do.
    WriteErrno,
    /// Transfers move at most so many bytes at a time.
    Short,
    /// Transfers take so many microseconds before they begin.
    DelayUs,
    /// The major version of nvidia-fs that is claimed; 0 is none.
    NvidiaFs,
    /// So many transfers are spared from planted codes and errors.
    Skip,
    /// Transfers of a batch end only when they are cancelled.
    BatchStuck,
}

/// What is counted. The numbers are those of `cufile.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CuFileCount {
    /// Opened and not closed.
    Opened = 0,
    /// Files that are registered.
    Handles,
    /// Buffers that are.
    Buffers,
    /// Reads so far.
    Reads,
    /// Writes so far.
    Writes,
    /// Batches that are set up.
    Batches,
    /// Streams that are registered.
    Streams,
}

impl PlayedCuFile {
    /// A copy of the newest library.
    ///
    /// # Errors
    /// The system's error from making or loading the copy.
    pub fn new() -> io::Result<Self> {
        Self::of(Path::new(env!("GCOS_PLAYED_CUFILE")))
    }

    /// A copy of an old library, which has neither batches nor transfers in streams.
    ///
    /// # Errors
    /// As [`PlayedCuFile::new`].
    pub fn old() -> io::Result<Self> {
        Self::of(Path::new(env!("GCOS_PLAYED_OLD_CUFILE")))
    }

    fn of(built: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gcos-played-cufile-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder)?;
        let path = folder.join("libcufile.so.0");
        fs::copy(built, &path)?;
        // SAFETY: a library without initialisers, made by this crate's build.
        let library = unsafe { Library::new(&path) }.map_err(io::Error::other)?;
        Ok(Self { folder, path, library })
    }

    /// The library's file, for [`crate::cufile::CuFile::open_at`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Plants a fault; 0 takes it away.
    ///
    /// # Errors
    /// When the library has not the function for it.
    pub fn fault(&self, which: CuFileFault, value: i64) -> io::Result<()> {
        // SAFETY: the type is that of the source.
        let plant = unsafe {
            self.library.get::<unsafe extern "C" fn(c_int, c_long)>("gcos_played_cufile_fault")
        };
        let plant = plant.map_err(io::Error::other)?;
        // SAFETY: a function of plain numbers.
        unsafe { plant(which as c_int, value) };
        Ok(())
    }

    /// What was counted; -1 where it cannot be asked.
    #[must_use]
    pub fn count(&self, which: CuFileCount) -> i64 {
        // SAFETY: the type is that of the source.
        let count = unsafe {
            self.library.get::<unsafe extern "C" fn(c_int) -> c_long>("gcos_played_cufile_count")
        };
        // SAFETY: a function of plain numbers.
        count.map_or(-1, |count| unsafe { count(which as c_int) })
    }
}

impl Drop for PlayedCuFile {
    fn drop(&mut self) {
        // What was loaded stays loaded; the files are not needed for that.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
