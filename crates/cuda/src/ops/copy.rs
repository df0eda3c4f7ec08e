use std::sync::Arc;

use gcos_layout::gpu::{CopyBatch, CopyRun};

use super::memory::named;
use super::scratch::HEAD_BYTES;
use super::{Memory, OpTicket, Ops};
use crate::{GpuError, Stream};

pub(super) const KERNEL: &str = "gcos_copy";

/// Longer runs are cut, so that several warps copy them.
const PIECE_BYTES: u64 = 16 << 10;
/// Most pieces of one launch.
const MOST_PIECES: u64 = 1 << 22;

/// Bytes to copy from one place to another, both of any alignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Index of the source into the memory that is handed over.
    pub source: u32,
    /// Offset in it in bytes.
    pub source_offset: u64,
    /// Index of the target.
    pub target: u32,
    /// Offset in it in bytes.
    pub target_offset: u64,
    /// Bytes; 0 copies nothing.
    pub bytes: u64,
}

impl Ops {
    /// Launches copies between runs of memory: gather and scatter. Sources and targets that are apart by a
    /// multiple of 16 bytes are the fastest. Where a target overlaps a source or another target of the same
    /// call, what lies there afterwards is not defined.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] for memory of another GPU or an index without memory,
    /// [`GpuError::OutOfBounds`] for a run past the end of its memory, [`GpuError::Cuda`].
    pub fn copy(
        &self,
        stream: &Stream,
        memories: Vec<Memory>,
        copies: &[Copy],
    ) -> Result<OpTicket, GpuError> {
        memories.iter().try_for_each(|memory| memory.is_of(self.gpu()))?;
        let pieces = copies.iter().fold(0_u64, |all, copy| {
            all.saturating_add(1).saturating_add(copy.bytes.div_ceil(PIECE_BYTES))
        });
        if pieces > MOST_PIECES {
            return Err(self.invalid("pieces of a copy", "at most 2^22 of 16 KiB", pieces));
        }
        let mut bytes = Vec::with_capacity(copies.len() * CopyRun::BYTES);
        for copy in copies {
            let source = named(self.gpu(), &memories, copy.source)?;
            let target = named(self.gpu(), &memories, copy.target)?;
            let source = source.at(copy.source_offset, copy.bytes)?;
            let target = target.at(copy.target_offset, copy.bytes)?;
            let mut done = 0;
            while done < copy.bytes {
                // The first cut is such that the later pieces begin with whole chunks of the target.
                let piece = (PIECE_BYTES - (target + done) % 16).min(copy.bytes - done);
                CopyRun { source: source + done, target: target + done, bytes: piece }
                    .put(&mut bytes);
                done += piece;
            }
        }
        let runs = bytes.len() / CopyRun::BYTES;
        if runs == 0 {
            return Ok(OpTicket { flight: None });
        }
        let lease = Arc::new(self.pool.take(&bytes, 0)?);
        let batch =
            CopyBatch { runs: lease.address(HEAD_BYTES)?, run_count: runs as u32, reserved: 0 };
        let warps = self.copy.threads / 32;
        let blocks = batch.run_count.div_ceil(warps).min(self.copy.most_blocks);
        let shape = (self.copy, blocks);
        let flight = self.launch(stream, KERNEL, shape, &batch.to_bytes(), (lease, memories))?;
        Ok(OpTicket { flight: Some(flight) })
    }
}
