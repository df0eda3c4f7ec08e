use std::time::Duration;

use gcos_hw::DmaSlice;
use smallvec::SmallVec;

use crate::{Geometry, IoError, IoErrorKind};

/// A contiguous range of a drive, in bytes; both multiples of the drive's logical block size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// Offset of the first byte from the start of the drive.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// What to do with the extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Drive to memory.
    Read,
    /// Memory to drive.
    Write {
        /// Durable when it completes (Force Unit Access), whatever the drive caches.
        fua: bool,
    },
    /// All writes completed before this was submitted become durable. No extents, no segments.
    Flush,
    /// The extents' content is no longer needed and may read as anything until written again. No
    /// segments.
    Deallocate,
}

impl Op {
    /// Name for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Op::Read => "read",
            Op::Write { .. } => "write",
            Op::Flush => "flush",
            Op::Deallocate => "deallocate",
        }
    }
}

/// One unit of work for an engine: extents and segments are each taken in order, as two byte strings
/// of the same length.
///
/// Segments may begin at any multiple of 4 bytes and have any lengths that are multiples of 4 (the
/// engine bounces what the device cannot address); those that are page-aligned move without a copy.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// Where on the drive.
    pub extents: SmallVec<[Extent; 1]>,
    /// Where in memory.
    pub segments: SmallVec<[DmaSlice; 2]>,
    /// Time from submission after which the request is given up and the device recovered.
    pub deadline: Duration,
}

/// Why a request does not fit a drive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// An extent is empty, misaligned or past the end.
    #[error(
        "extent at {offset} of {len} bytes: expected a non-empty multiple of {lba_bytes} bytes within {capacity} bytes"
    )]
    Extent {
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// Logical block size.
        lba_bytes: u32,
        /// Capacity of the drive in bytes.
        capacity: u64,
    },
    /// Extents and segments differ in total length, or are given where the operation takes none.
    #[error("{op}: extents hold {extents} bytes and segments {segments}, expected {expected}")]
    Lengths {
        /// Operation name.
        op: &'static str,
        /// Total of the extents.
        extents: u64,
        /// Total of the segments.
        segments: u64,
        /// The rule.
        expected: &'static str,
    },
    /// A segment begins or ends off a 4-byte boundary.
    #[error("segment at {iova:#x} of {len} bytes: expected address and length in multiples of 4")]
    Segment {
        /// I/O virtual address.
        iova: u64,
        /// Length in bytes.
        len: usize,
    },
}

impl Request {
    /// A read of one extent into one segment of the same length.
    #[must_use]
    pub fn read(offset: u64, into: DmaSlice, deadline: Duration) -> Self {
        Self::transfer(Op::Read, offset, into, deadline)
    }

    /// A write of one segment to one extent of the same length.
    #[must_use]
    pub fn write(offset: u64, from: DmaSlice, fua: bool, deadline: Duration) -> Self {
        Self::transfer(Op::Write { fua }, offset, from, deadline)
    }

    fn transfer(op: Op, offset: u64, segment: DmaSlice, deadline: Duration) -> Self {
        let extent = Extent { offset, len: segment.len() as u64 };
        Self {
            op,
            extents: SmallVec::from_buf([extent]),
            segments: std::iter::once(segment).collect(),
            deadline,
        }
    }

    /// A flush.
    #[must_use]
    pub fn flush(deadline: Duration) -> Self {
        Self { op: Op::Flush, extents: SmallVec::new(), segments: SmallVec::new(), deadline }
    }

    /// A deallocation of several extents.
    #[must_use]
    pub fn deallocate(extents: impl IntoIterator<Item = Extent>, deadline: Duration) -> Self {
        let extents = extents.into_iter().collect();
        Self { op: Op::Deallocate, extents, segments: SmallVec::new(), deadline }
    }

    /// Checks the request against a drive: every rule of the type's description. Engines call this
    /// before they start anything.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self, drive: &Geometry) -> Result<(), RequestError> {
        let lba = u64::from(drive.lba_bytes);
        let mut extents = 0u64;
        for &Extent { offset, len } in &self.extents {
            let end = offset.checked_add(len);
            let fits = end.is_some_and(|end| end <= drive.capacity);
            if len == 0 || !fits || offset % lba != 0 || len % lba != 0 {
                let (lba_bytes, capacity) = (drive.lba_bytes, drive.capacity);
                return Err(RequestError::Extent { offset, len, lba_bytes, capacity });
            }
            extents = extents.saturating_add(len);
        }
        for segment in &self.segments {
            let (iova, len) = (segment.iova(), segment.len());
            if iova % 4 != 0 || len % 4 != 0 {
                return Err(RequestError::Segment { iova, len });
            }
        }
        let segments = self.segments.iter().map(|s| s.len() as u64).sum();
        let (good, expected) = match self.op {
            Op::Read | Op::Write { .. } => {
                (extents == segments && extents > 0, "the same number of bytes, at least one block")
            }
            Op::Flush => (extents == 0 && segments == 0, "neither extents nor segments"),
            Op::Deallocate => (extents > 0 && segments == 0, "extents only"),
        };
        if good {
            Ok(())
        } else {
            Err(RequestError::Lengths { op: self.op.name(), extents, segments, expected })
        }
    }

    /// An error about this request.
    #[must_use]
    pub fn error(&self, drive: &Geometry, kind: IoErrorKind, detail: impl Into<String>) -> IoError {
        IoError {
            kind,
            drive: drive.name.clone(),
            op: self.op.name(),
            offset: self.extents.first().map_or(0, |e| e.offset),
            len: self.extents.iter().map(|e| e.len).sum(),
            detail: detail.into(),
            source: None,
        }
    }
}
