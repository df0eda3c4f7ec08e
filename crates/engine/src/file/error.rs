use gcos_hw::HwError;

use super::KernelPath;

/// Why no engine can be opened over a block device or a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileEngineError {
    /// The way that was asked for cannot be used here.
    #[error("{drive}: {path} was asked for and cannot be used: {reason}")]
    Forced {
        /// The drive.
        drive: String,
        /// The way.
        path: KernelPath,
        /// Why not, and what to do.
        reason: String,
    },
    /// An option does not fit the drive.
    #[error("{drive}: {what}: expected {expected}, got {got}")]
    Option {
        /// The drive.
        drive: String,
        /// The option.
        what: &'static str,
        /// What is accepted.
        expected: String,
        /// What was given.
        got: u64,
    },
    /// The host has no memory or threads left.
    #[error("{drive}: no resources")]
    Resources {
        /// The drive.
        drive: String,
        /// What was refused.
        #[source]
        source: HwError,
    },
}
