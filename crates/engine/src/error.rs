use std::error::Error;

/// Why an I/O failed, for deciding what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IoErrorKind {
    /// The request does not fit the drive (range, alignment, lengths): a caller's bug or bad media
    /// metadata.
    Invalid,
    /// The medium could not be read or written (NVMe media and data integrity errors).
    Media,
    /// The device refused or failed the command for another reason.
    Device,
    /// The deadline passed; the command was aborted or ended by a reset, or never begun.
    Timeout,
    /// The deadline passed, and what carries the request cannot be made to give it up: until it ends by itself, a
    /// read may still write to its memory, and a write to the drive.
    Unfinished,
    /// The device is gone, shut down, or did not come back from a reset.
    Gone,
    /// The drive was taken out of use by a rule ([`crate::DemotingEngine`]) and takes no requests until it
    /// is promoted. Nothing of this one was started.
    Demoted,
}

/// A failed I/O: what kind, on which drive, and the device's own words.
#[derive(Debug, thiserror::Error)]
#[error("{op} of {len} bytes at offset {offset} on {drive} failed: {detail}")]
pub struct IoError {
    /// For deciding what to do.
    pub kind: IoErrorKind,
    /// Drive name, as in [`crate::Geometry::name`].
    pub drive: String,
    /// Operation: "read", "write", "flush", "deallocate", "shutdown"; for work of a
    /// GPU also "open" and "start".
    pub op: &'static str,
    /// Media offset of the first extent in bytes, 0 where there is none.
    pub offset: u64,
    /// Bytes asked for.
    pub len: u64,
    /// What was expected or what the device said (status name included).
    pub detail: String,
    /// The lower layer's error.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl IoError {
    /// An error about no particular place of a drive.
    pub(crate) fn about(
        drive: &str,
        kind: IoErrorKind,
        op: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        let (drive, detail) = (drive.to_owned(), detail.into());
        Self { kind, drive, op, offset: 0, len: 0, detail, source: None }
    }
}
