use std::io;
use std::path::PathBuf;

use super::{CuFileCode, UdevGap};
use crate::GpuError;

/// Why cuFile cannot be used, or what it failed with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CuFileError {
    /// The library is nowhere.
    #[error(
        "libcufile cannot be loaded ({tried}); install it (NVIDIA's package libcufile, or nvidia-cufile of \
         PyPI), or name the file in GCOS_CUFILE"
    )]
    NotFound {
        /// What was tried, and what came of it.
        tried: String,
    },
    /// A library was loaded that is another one, or too old.
    #[error(
        "{library} has no function {symbol}: expected libcufile 1.4 or later; update it, or name another \
         file in GCOS_CUFILE"
    )]
    Symbol {
        /// The file.
        library: PathBuf,
        /// What it lacks.
        symbol: String,
    },
    /// A call that this version of the library does not have.
    #[error("{library} has no {what}: expected libcufile {since} or later")]
    TooOld {
        /// The file.
        library: PathBuf,
        /// What it lacks.
        what: &'static str,
        /// The first version that has it.
        since: &'static str,
    },
    /// cuFile refused a call.
    #[error("{call} failed with {code}; {}", .code.cure())]
    Call {
        /// The call.
        call: &'static str,
        /// What it said.
        code: CuFileCode,
    },
    /// CUDA refused a call of cuFile.
    #[error("{call} failed with {code}: CUDA's error is {cuda}")]
    Cuda {
        /// The call.
        call: &'static str,
        /// What it said.
        code: CuFileCode,
        /// CUDA's number.
        cuda: i32,
    },
    /// A file could not be registered for want of a record of udev.
    #[error("{call} failed with {code}; {gap}")]
    Udev {
        /// The call.
        call: &'static str,
        /// What it said.
        code: CuFileCode,
        /// What is missing.
        gap: UdevGap,
    },
    /// The system refused.
    #[error("{call} at offset {offset} failed")]
    Os {
        /// The call.
        call: &'static str,
        /// Offset in the file, in bytes.
        offset: u64,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A transfer ended early.
    #[error("{call} moved {moved} of {wanted} bytes at offset {offset} and then no more")]
    Short {
        /// The call.
        call: &'static str,
        /// Offset in the file, in bytes.
        offset: u64,
        /// Bytes asked for.
        wanted: u64,
        /// Bytes moved.
        moved: u64,
    },
    /// A transfer of a batch or of a stream did not take place.
    #[error("{call} at offset {offset} was {what}")]
    Ended {
        /// The call.
        call: &'static str,
        /// Offset in the file, in bytes.
        offset: u64,
        /// What became of it.
        what: &'static str,
    },
    /// Registering more memory would go past the bound.
    #[error(
        "no {wanted} bytes more can be registered with cuFile: {used} of {limit} are \
         (kernel_path.cufile_buffer_mib)"
    )]
    Budget {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes registered.
        used: u64,
        /// Most.
        limit: u64,
    },
    /// An argument was unusable.
    #[error("{what}: expected {expected}, got {got}")]
    Invalid {
        /// The argument.
        what: &'static str,
        /// What is accepted.
        expected: &'static str,
        /// What was given.
        got: u64,
    },
    /// Something did not end in time; its memory stays lent.
    #[error("{what} did not end within {after:?}")]
    TimedOut {
        /// What was awaited.
        what: &'static str,
        /// The deadline.
        after: std::time::Duration,
    },
    /// The GPU refused.
    #[error("cuFile needs the GPU")]
    Gpu(#[from] GpuError),
}

impl CuFileError {
    /// The number that cuFile returned, if it was cuFile.
    #[must_use]
    pub fn code(&self) -> Option<CuFileCode> {
        match self {
            Self::Call { code, .. } | Self::Cuda { code, .. } | Self::Udev { code, .. } => {
                Some(*code)
            }
            _ => None,
        }
    }

    /// The system's error, if it was the system.
    #[must_use]
    pub fn os(&self) -> Option<&io::Error> {
        match self {
            Self::Os { source, .. } => Some(source),
            _ => None,
        }
    }
}
