use std::io;
use std::path::PathBuf;

use gcos_hw::HwError;

/// Why a software controller could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// The file behind a medium could not be opened or measured.
    #[error("medium file {path:?}: {what}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file behind a medium is in use, by this process or another.
    #[error(
        "medium file {path:?} is locked by another opener; one controller at a time may own it"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A medium of an unusable size.
    #[error("medium {name}: expected a non-zero multiple of 4096 bytes, got {bytes} bytes")]
    MediumSize {
        /// The medium.
        name: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// A configuration value is out of range.
    #[error("configuration of the software controller: {field} must be {expected}, got {got}")]
    Config {
        /// The field of [`Config`](crate::Config).
        field: &'static str,
        /// What is accepted.
        expected: &'static str,
        /// What was given.
        got: u64,
    },
    /// The namespaces need more than the medium has.
    #[error("the namespaces need {need} bytes, the medium has {have}; make it larger")]
    Capacity {
        /// Bytes asked for by the namespaces together.
        need: u64,
        /// Bytes of the medium.
        have: u64,
    },
    /// Memory, address space or event descriptors ran out.
    #[error("resources of the software controller")]
    Hw(#[from] HwError),
    /// A thread could not be started.
    #[error("thread of the software controller could not be started")]
    Thread(#[source] io::Error),
}
