//! Bounce buffers: for memory that neither PRP entries nor the controller's SGLs can express.

use std::sync::Arc;

use gcos_hw::{DmaBuffer, DmaSlice, DmaSpace};
use parking_lot::Mutex;

use crate::NvmeError;
use crate::inflight::Segments;
use crate::pointer::Position;

/// Buffers kept for the next use.
const KEPT: usize = 32;

/// Buffers of one command's largest transfer, made when first needed.
#[derive(Debug)]
pub(crate) struct BouncePool {
    dma: Arc<DmaSpace>,
    bytes: usize,
    free: Mutex<Vec<DmaBuffer>>,
}

/// A bounce buffer in use by one command.
#[derive(Debug)]
pub(crate) struct Bounce {
    buffer: DmaBuffer,
    at: Position,
    len: usize,
    read: bool,
}

impl BouncePool {
    pub(crate) fn new(dma: &Arc<DmaSpace>, bytes: usize) -> Self {
        Self { dma: Arc::clone(dma), bytes, free: Mutex::new(Vec::new()) }
    }

    /// A buffer for `len` bytes of `segments` from `at` on, filled from them unless it is to `read`.
    pub(crate) fn take(
        &self,
        device: &Arc<str>,
        segments: &[DmaSlice],
        at: Position,
        len: usize,
        read: bool,
    ) -> Result<Box<Bounce>, NvmeError> {
        let kept = self.free.lock().pop();
        let buffer = match kept {
            Some(buffer) => buffer,
            None => self
                .dma
                .alloc(self.bytes)
                .map_err(NvmeError::platform(device, "allocating a bounce buffer"))?,
        };
        let bounce = Bounce { buffer, at, len, read };
        if !read {
            bounce.copy(device, segments, false)?;
        }
        Ok(Box::new(bounce))
    }

    pub(crate) fn give(&self, bounce: Bounce) {
        let mut free = self.free.lock();
        if free.len() < KEPT {
            free.push(bounce.buffer);
        }
    }
}

impl Bounce {
    /// The buffer, as the device uses it.
    pub(crate) fn slice(&self) -> DmaSlice {
        self.buffer.as_dma()
    }

    /// After a successful read: copies what was read to where it belongs.
    pub(crate) fn copy_back(
        &self,
        device: &Arc<str>,
        segments: &Segments,
    ) -> Result<(), NvmeError> {
        if self.read { self.copy(device, segments, true) } else { Ok(()) }
    }

    fn copy(&self, device: &Arc<str>, segments: &[DmaSlice], back: bool) -> Result<(), NvmeError> {
        let buffer = self.buffer.as_dma();
        let mut done = 0;
        let mut offset = self.at.offset;
        for segment in segments.iter().skip(self.at.segment) {
            let take = (segment.len() - offset).min(self.len - done);
            if back {
                segment.copy_from(offset, &buffer, done, take)
            } else {
                buffer.copy_from(done, segment, offset, take)
            }
            .map_err(NvmeError::bounds(device, "copying through a bounce buffer"))?;
            done += take;
            offset = 0;
            if done == self.len {
                break;
            }
        }
        Ok(())
    }
}
