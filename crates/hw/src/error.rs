use std::io;

/// An access past the end of a memory area, or at an offset that the access width does not divide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "access of {len} bytes at offset {offset} does not fit memory of {size} bytes, or is not aligned"
)]
pub struct OutOfBounds {
    /// Offset of the access in bytes.
    pub offset: usize,
    /// Length of the access in bytes.
    pub len: usize,
    /// Size of the memory in bytes.
    pub size: usize,
}

/// What can go wrong below the NVMe protocol.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HwError {
    /// An operating-system call failed.
    #[error("{what} failed")]
    Os {
        /// The call and what it was made for.
        what: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// No room is left in the device's address space.
    #[error(
        "no {len} bytes of I/O virtual addresses left; free DMA buffers or use fewer, larger ones"
    )]
    IovaExhausted {
        /// Bytes asked for.
        len: usize,
    },
    /// A length or address was unusable.
    #[error("{what}: expected {expected}, got {got}")]
    Invalid {
        /// The parameter.
        what: &'static str,
        /// What is accepted.
        expected: &'static str,
        /// What was given.
        got: u64,
    },
    /// The mapping backend refused.
    #[error("mapping {len} bytes at I/O virtual address {iova:#x} was refused: {reason}")]
    Map {
        /// I/O virtual address.
        iova: u64,
        /// Length in bytes.
        len: usize,
        /// Why, with the cure.
        reason: String,
    },
    /// Memory is lent to I/O that has not ended.
    #[error("the buffer is lent to {loans} I/O segment(s); wait for the I/O to end first")]
    Busy {
        /// Number of live segments.
        loans: usize,
    },
    /// Access past the end of memory.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
}

impl HwError {
    /// The last operating-system error, with what was being done.
    pub(crate) fn last_os(what: impl Into<String>) -> Self {
        Self::Os { what: what.into(), source: io::Error::last_os_error() }
    }
}
