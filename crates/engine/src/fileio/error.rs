use std::io;
use std::path::PathBuf;

use gcos_cuda::GpuError;

/// Why a file and GPU memory could not be brought together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileIoError {
    /// The address is no memory of this GPU: host memory, another GPU's, freed, or too short.
    #[error("the address is not usable")]
    Memory(#[source] GpuError),
    /// A number does not fit.
    #[error("{what}: expected {expected}, got {got}")]
    Invalid {
        /// The argument.
        what: &'static str,
        /// What is accepted.
        expected: &'static str,
        /// What was given.
        got: u64,
    },
    /// The file cannot be opened.
    #[error("{path} cannot be opened for {purpose}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Reading or writing.
        purpose: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// It is a folder, a pipe or the like.
    #[error("{path} is neither a file nor a block device")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file ends before the range does.
    #[error("{path} has {len} bytes, those up to {end} were asked for")]
    PastEnd {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// End of the range.
        end: u64,
    },
    /// The file system is full. The range may be written in part.
    #[error("no room for {size} bytes at {offset} of {path}; make room on its file system")]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// Offset of the range.
        offset: u64,
        /// Bytes of the range.
        size: u64,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The system refused or failed. The range may have been moved in part.
    #[error("{what} of {size} bytes at {offset} of {path} failed")]
    Io {
        /// Read, write or synchronising.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Offset of the range.
        offset: u64,
        /// Bytes of the range.
        size: u64,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The GPU refused or failed, or did not end in time. The range may have been moved in part.
    #[error("{what}")]
    Gpu {
        /// What was asked of it.
        what: &'static str,
        /// Why.
        #[source]
        source: GpuError,
    },
}
