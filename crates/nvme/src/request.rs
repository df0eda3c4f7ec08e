use std::time::Duration;

use gcos_hw::DmaSlice;
use smallvec::SmallVec;

/// What an I/O request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoOp {
    /// Medium to memory.
    Read,
    /// Memory to medium.
    Write {
        /// Force Unit Access: on the medium when it completes.
        fua: bool,
    },
    /// Compares the medium with memory.
    Compare,
    /// Sets blocks to zeros. No segments.
    WriteZeroes {
        /// The blocks should be deallocated as well.
        deallocate: bool,
    },
    /// Makes completed writes durable. No blocks, no segments.
    Flush,
    /// Says that the blocks' content is no longer needed. No segments.
    Deallocate,
}

impl IoOp {
    /// Whether data moves between medium and memory.
    #[must_use]
    pub fn has_data(self) -> bool {
        matches!(self, Self::Read | Self::Write { .. } | Self::Compare)
    }
}

/// Consecutive logical blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockRange {
    /// First logical block.
    pub slba: u64,
    /// Number of logical blocks, a plain count of any size.
    pub blocks: u64,
}

/// One unit of work, as many commands as it takes. It ends once, when all its commands have ended,
/// with the first error among them.
#[derive(Debug, Clone)]
pub struct IoRequest {
    /// Namespace.
    pub nsid: u32,
    /// What to do.
    pub op: IoOp,
    /// Where on the medium, in order.
    pub ranges: SmallVec<[BlockRange; 1]>,
    /// Where in memory, in order: as many bytes as the ranges hold. Addresses and lengths are
    /// multiples of 4.
    pub segments: SmallVec<[DmaSlice; 2]>,
    /// Time from submission after which the request is aborted.
    pub timeout: Duration,
}
