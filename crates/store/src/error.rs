use std::time::Duration;

use gcos_engine::device::GpuError;
use gcos_engine::{IoError, IoErrorKind};
use gcos_hw::HwError;
use gcos_layout::media::FormatError;

/// What can go wrong in the store. A key that is not there, or whose object cannot be proven whole, is
/// no error but a [`crate::MissReason`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A parameter is out of its range; nothing was done.
    #[error("{what}: expected {expected}, got {got}")]
    Invalid {
        /// The parameter.
        what: &'static str,
        /// What is accepted.
        expected: String,
        /// What was given.
        got: String,
    },
    /// The target memory does not have the object's length; nothing was read.
    #[error(
        "the object has {object} bytes and the target memory {target}; ask `info` for the length first"
    )]
    WrongSize {
        /// Bytes of the object (or of the range asked for).
        object: u64,
        /// Bytes of the memory given.
        target: u64,
    },
    /// No room: everything that could be evicted is pinned, in use, or too small to help.
    #[error(
        "no room for {needed} bytes: {used} of {capacity} bytes are in use, {pinned} objects are \
         pinned; unpin or remove objects, or use a larger pool"
    )]
    Full {
        /// Bytes of the slots needed.
        needed: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes of all data chunks.
        capacity: u64,
        /// Objects that may not be evicted.
        pinned: u64,
    },
    /// A drive holds no pool.
    #[error("{drive}: no GCOS pool here ({found}); format it with `gcos zone-format`")]
    NotAPool {
        /// Drive.
        drive: String,
        /// What is there instead.
        found: String,
    },
    /// A drive holds part of a pool that cannot be opened.
    #[error("{drive}: the pool cannot be opened: {reason}")]
    Unopenable {
        /// Drive.
        drive: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The drives do not belong together.
    #[error("{a} belongs to pool {pool_a} and {b} to pool {pool_b}; open them as separate pools")]
    MixedPools {
        /// First drive.
        a: String,
        /// Its pool.
        pool_a: String,
        /// Second drive.
        b: String,
        /// Its pool.
        pool_b: String,
    },
    /// A drive holds something that format would erase.
    #[error(
        "{drive} holds {found}; formatting would erase it. If that is meant, say so with force"
    )]
    Occupied {
        /// Drive.
        drive: String,
        /// What was found.
        found: String,
    },
    /// A structure on a drive is not what it should be, or cannot be encoded.
    #[error("{drive}: {at}")]
    Format {
        /// Drive.
        drive: String,
        /// Which structure.
        at: String,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
    /// A drive failed.
    #[error("drive I/O failed")]
    Io(#[from] IoError),
    /// Memory could not be had or used.
    #[error("device memory")]
    Memory(#[from] HwError),
    /// A GPU failed, or its memory could not be used.
    #[error("GPU")]
    Gpu(#[from] GpuError),
    /// The pool lost the drive that the operation needs, or too many superblock copies of it.
    #[error("{drive} is out of use: {reason}")]
    DriveFailed {
        /// Drive.
        drive: String,
        /// Why.
        reason: String,
    },
    /// Another thread's operation did not come to its end in time; nothing was done.
    #[error("{what} has not ended within {waited:?}; try again later")]
    TimedOut {
        /// The operation.
        what: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Operations that were acknowledged relaxed were lost because a drive failed. Said once.
    #[error(
        "relaxed operations were lost since the last flush because a drive failed; see the log"
    )]
    RelaxedLost,
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Kind of the I/O error below, if there is one.
    #[must_use]
    pub fn io_kind(&self) -> Option<IoErrorKind> {
        match self {
            StoreError::Io(error) => Some(error.kind),
            _ => None,
        }
    }

    /// Message of the I/O error below, or else of this one.
    pub(crate) fn io_detail(&self) -> String {
        match self {
            StoreError::Io(error) => error.to_string(),
            other => other.to_string(),
        }
    }

    /// The message, with those of its sources.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }

    pub(crate) fn invalid(
        what: &'static str,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        Self::Invalid { what, expected: expected.into(), got: got.to_string() }
    }
}

impl From<gcos_hw::OutOfBounds> for StoreError {
    fn from(error: gcos_hw::OutOfBounds) -> Self {
        Self::Memory(error.into())
    }
}
