//! Memory for what direct I/O does not take from where it is: addresses and lengths off the block, and
//! memory of another device.

use std::sync::Arc;

use gcos_hw::kernel::host_space;
use gcos_hw::{DmaBuffer, DmaSlice, DmaSpace, HwError, OutOfBounds, order_stores};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::plan::MAX_TRANSFER;

/// Sizes that are kept for the next use, in bytes.
const SIZES: [usize; 3] = [64 << 10, 1 << 20, MAX_TRANSFER];
/// Bytes kept for the next use.
const KEPT_BYTES: usize = 32 << 20;

/// Bounce buffers.
#[derive(Debug)]
pub(super) struct BouncePool {
    space: Arc<DmaSpace>,
    idle: Mutex<Vec<DmaBuffer>>,
}

/// A bounce buffer in use for one transfer.
#[derive(Debug)]
pub(super) struct Bounce {
    pool: Arc<BouncePool>,
    buffer: Option<DmaBuffer>,
    /// The bytes of the transfer.
    slice: Option<DmaSlice>,
    /// Where they belong.
    memory: SmallVec<[DmaSlice; 2]>,
}

impl BouncePool {
    pub(super) fn new() -> Result<Arc<Self>, HwError> {
        Ok(Arc::new(Self { space: host_space()?, idle: Mutex::default() }))
    }

    /// A buffer for the `len` bytes of `memory`.
    pub(super) fn take(
        self: &Arc<Self>,
        len: usize,
        memory: SmallVec<[DmaSlice; 2]>,
    ) -> Result<Bounce, HwError> {
        let size = SIZES.into_iter().find(|size| *size >= len).unwrap_or(len);
        let kept = {
            let mut idle = self.idle.lock();
            let at = idle.iter().position(|buffer| buffer.len() == size);
            at.map(|at| idle.swap_remove(at))
        };
        let buffer = match kept {
            Some(buffer) => buffer,
            None => self.space.alloc(size)?,
        };
        let slice = Some(buffer.slice(0, len)?);
        Ok(Bounce { pool: Arc::clone(self), buffer: Some(buffer), slice, memory })
    }
}

impl Bounce {
    /// What the kernel gets.
    pub(super) fn slice(&self) -> Option<DmaSlice> {
        self.slice.clone()
    }

    /// Before a write.
    pub(super) fn copy_in(&self) -> Result<(), OutOfBounds> {
        let mut at = 0;
        for part in &self.memory {
            if let Some(slice) = &self.slice {
                slice.copy_from(at, part, 0, part.len())?;
            }
            at += part.len();
        }
        Ok(())
    }

    /// After a read.
    pub(super) fn copy_out(&self) -> Result<(), OutOfBounds> {
        let mut at = 0;
        for part in &self.memory {
            if let Some(slice) = &self.slice {
                part.copy_from(0, slice, at, part.len())?;
            }
            at += part.len();
        }
        if self.memory.iter().any(|part| part.memory().0.is_foreign()) {
            // Stores into a window are gathered: they leave before anybody hears of the end.
            order_stores();
        }
        Ok(())
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        self.slice = None;
        let Some(mut buffer) = self.buffer.take() else { return };
        // What the kernel still holds goes when it is done, and is not handed out again.
        if !SIZES.contains(&buffer.len()) || buffer.bytes_mut().is_err() {
            return;
        }
        let mut idle = self.pool.idle.lock();
        if idle.iter().map(DmaBuffer::len).sum::<usize>() + buffer.len() <= KEPT_BYTES {
            idle.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_unless_the_kernel_holds_them() {
        let pool = BouncePool::new().unwrap();
        let address = |bounce: &Bounce| bounce.slice().unwrap().memory().0.address();
        let first = pool.take(5000, SmallVec::new()).unwrap();
        let at = address(&first);
        drop(first);
        let second = pool.take(6000, SmallVec::new()).unwrap();
        assert_eq!(address(&second), at);
        let held = second.slice();
        drop(second);
        assert!(pool.idle.lock().is_empty());
        assert_ne!(address(&pool.take(6000, SmallVec::new()).unwrap()), at);
        drop(held);
        drop(pool.take(MAX_TRANSFER + 1, SmallVec::new()).unwrap());
        assert_eq!(pool.idle.lock().len(), 1, "odd sizes are not kept");
    }
}
