//! Device-visible buffers for headers, padding and payloads that the caller keeps elsewhere.

use std::sync::Arc;

use gcos_hw::{DmaBuffer, DmaSlice, DmaSpace};
use parking_lot::Mutex;

use crate::StoreError;

/// Buffer sizes kept for reuse: one header; a small object with its header; one unit of larger ones, with a header.
const SIZES: [usize; 5] = [
    8 << 10,
    128 << 10,
    (256 << 10) + (64 << 10),
    (512 << 10) + (64 << 10),
    (1 << 20) + (64 << 10),
];
/// Bytes kept for reuse in each size.
const KEEP_BYTES: usize = 32 << 20;

/// A pool of staging buffers.
#[derive(Debug)]
pub(crate) struct Staging {
    dma: Arc<DmaSpace>,
    idle: [Mutex<Vec<DmaBuffer>>; SIZES.len()],
}

/// A staging buffer in use; goes back to its pool when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: Arc<Staging>,
    buffer: Option<DmaBuffer>,
    slice: Option<DmaSlice>,
}

impl Staging {
    pub(crate) fn new(dma: Arc<DmaSpace>) -> Arc<Self> {
        Arc::new(Self { dma, idle: Default::default() })
    }

    /// A buffer of at least `len` bytes; its content is unspecified.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Result<Lease, StoreError> {
        let class = SIZES.iter().position(|&size| size >= len);
        let idle = class.and_then(|class| self.idle.get(class)).and_then(|list| list.lock().pop());
        let buffer = match idle {
            Some(buffer) => buffer,
            None => self.dma.alloc(class.and_then(|c| SIZES.get(c).copied()).unwrap_or(len))?,
        };
        let slice = buffer.slice(0, len)?;
        Ok(Lease { pool: Arc::clone(self), buffer: Some(buffer), slice: Some(slice) })
    }
}

impl Lease {
    /// The first `len` bytes that were asked for.
    pub(crate) fn slice(&self, offset: usize, len: usize) -> Result<DmaSlice, StoreError> {
        match &self.slice {
            Some(slice) => Ok(slice.slice(offset, len)?),
            None => Err(StoreError::Closed),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.slice = None;
        let Some(mut buffer) = self.buffer.take() else { return };
        let Some(class) = SIZES.iter().position(|&size| size == buffer.len()) else { return };
        // A buffer that I/O still holds (its operation was given up) must not be handed out again:
        // it is freed when the I/O ends.
        if buffer.bytes_mut().is_err() {
            return;
        }
        let (Some(list), Some(size)) = (self.pool.idle.get(class), SIZES.get(class)) else {
            return;
        };
        let mut list = list.lock();
        if list.len() * size < KEEP_BYTES {
            list.push(buffer);
        }
    }
}
