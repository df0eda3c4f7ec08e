use gcos_engine::{IoError, IoErrorKind};
use gcos_hw::{HwError, OutOfBounds};
use gcos_layout::media::FormatError;

/// Why a drive could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The engine's error.
    #[error("i/o failed ({:?})", .0.kind)]
    Io(#[source] Box<IoError>),
    /// No memory that the drive reaches.
    #[error("no i/o memory")]
    Memory(#[from] HwError),
    /// A transfer larger than its memory.
    #[error("transfer outside its memory")]
    Bounds(#[from] OutOfBounds),
}

impl From<IoError> for DiskError {
    fn from(error: IoError) -> Self {
        Self::Io(Box::new(error))
    }
}

impl DiskError {
    /// The whole story in one line: findings have no chain of sources.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Io(error) => error.to_string(),
            other => other.to_string(),
        }
    }

    /// Whether the medium itself has lost the bytes, so that trying again is no use.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind == IoErrorKind::Media)
    }
}

/// Why a check could not be made, or a repair not completed. What is wrong with a pool is no error
/// but a finding.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// Nothing to check.
    #[error("no drives given, expected at least one")]
    NoDrives,
    /// A newer format, which this release would misread.
    #[error("drive {drive} cannot be checked by this release")]
    Version {
        /// Drive name.
        drive: String,
        /// The versions.
        #[source]
        source: FormatError,
    },
    /// No memory for I/O, or a drive refused a repair's write. Running the repair again continues.
    #[error("drive {drive}: {what} failed")]
    Disk {
        /// Drive name.
        drive: String,
        /// What was going on.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<DiskError>,
    },
    /// A structure to be written could not be encoded.
    #[error("drive {drive}: a record cannot be written")]
    Encode {
        /// Drive name.
        drive: String,
        /// The cause.
        #[source]
        source: FormatError,
    },
}
