//! Pinned host memory in which operations get their descriptors and leave what they found. It is made once
//! and used again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::{Gpu, GpuError, Pinned, PinnedSlice};

/// Bytes at the start of a lease: what says how far the work is, on a line of its own.
pub(super) const HEAD_BYTES: usize = 128;
/// Where the word is that turns 1 when the stream has passed the kernel.
pub(super) const DONE_AT: usize = 0;
/// Where the word is that says that something was left out.
pub(super) const REFUSED_AT: usize = 4;

/// Least length of a piece.
const LEAST_BYTES: usize = 16 << 10;
/// Pieces that wait for use; more are given back to the system.
const MOST_IDLE: usize = 64;

/// Pieces that no operation uses.
#[derive(Debug)]
pub(super) struct Pool {
    gpu: Arc<Gpu>,
    idle: Mutex<Vec<Pinned>>,
}

/// A piece in use. Back in its pool at its end.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Arc<Pool>,
    pinned: Option<Pinned>,
}

impl Pool {
    pub(super) fn new(gpu: &Arc<Gpu>) -> Arc<Self> {
        Arc::new(Self { gpu: Arc::clone(gpu), idle: Mutex::default() })
    }

    /// A piece that holds `bytes` after its head, which is 0, and has `room` more bytes.
    pub(super) fn take(self: &Arc<Self>, bytes: &[u8], room: usize) -> Result<Lease, GpuError> {
        let len = HEAD_BYTES + bytes.len() + room;
        let found = {
            let mut idle = self.idle.lock();
            let fits = idle.iter().enumerate().filter(|(_, pinned)| pinned.len() >= len);
            let least = fits.min_by_key(|(_, pinned)| pinned.len()).map(|(index, _)| index);
            least.map(|index| idle.swap_remove(index))
        };
        let pinned = match found {
            Some(pinned) => pinned,
            None => Pinned::new(&self.gpu, len.next_power_of_two().max(LEAST_BYTES))?,
        };
        let lease = Lease { pool: Arc::clone(self), pinned: Some(pinned) };
        lease.fill(bytes)?;
        Ok(lease)
    }
}

impl Lease {
    fn pinned(&self) -> Result<&Pinned, GpuError> {
        self.pinned.as_ref().ok_or(GpuError::NoRoom {
            ordinal: self.pool.gpu.ordinal(),
            len: 0,
            reason: "the scratch memory of an operation is gone".to_owned(),
        })
    }

    fn fill(&self, bytes: &[u8]) -> Result<(), GpuError> {
        let memory = self.pinned()?.memory();
        let stored = memory.fill(0, HEAD_BYTES, 0).and_then(|()| memory.write(HEAD_BYTES, bytes));
        stored.map_err(|source| self.out_of_bounds(source))
    }

    /// The word that turns 1 when the stream has passed the kernel.
    pub(super) fn done(&self) -> Result<PinnedSlice, GpuError> {
        self.pinned()?.slice(DONE_AT, 4)
    }

    /// Device address of the byte at `offset`.
    pub(super) fn address(&self, offset: usize) -> Result<u64, GpuError> {
        Ok(self.pinned()?.device_address() + offset as u64)
    }

    /// A word of the head; what was done before it was written is seen.
    pub(super) fn counter(&self, offset: usize) -> Result<u32, GpuError> {
        let loaded = self.pinned()?.memory().load_u32(offset, Ordering::Acquire);
        loaded.map_err(|source| self.out_of_bounds(source))
    }

    /// `count` words from `offset` on.
    pub(super) fn words(&self, offset: usize, count: usize) -> Result<Vec<u32>, GpuError> {
        let memory = self.pinned()?.memory();
        let word = |index: usize| memory.load_u32(offset + 4 * index, Ordering::Relaxed);
        let words = (0..count).map(word).collect::<Result<_, _>>();
        words.map_err(|source| self.out_of_bounds(source))
    }

    fn out_of_bounds(&self, source: gcos_hw::OutOfBounds) -> GpuError {
        GpuError::OutOfBounds { ordinal: self.pool.gpu.ordinal(), source }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pinned) = self.pinned.take() {
            let mut idle = self.pool.idle.lock();
            if idle.len() < MOST_IDLE {
                idle.push(pinned);
            }
        }
    }
}
