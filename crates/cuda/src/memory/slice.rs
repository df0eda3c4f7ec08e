use std::sync::Arc;

use gcos_hw::{DmaSlice, Holder};

use super::pool::Pool;
use crate::range::{Hold, sealed, within};
use crate::{Gpu, GpuError, GpuRange};

/// What was taken of a window; free again when no slice has it.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) pool: Arc<Pool>,
    pub(crate) window: usize,
    pub(crate) offset: usize,
    pub(crate) len: usize,
    pub(crate) device_address: u64,
}

impl Holder for Block {}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.give(self.window, self.offset, self.len);
    }
}

/// Memory that [`crate::DeviceMemory::alloc`] gave. It is free again when this and every slice of it are
/// gone, those that commands hold included.
#[derive(Debug)]
pub struct DeviceBuffer {
    slice: DeviceSlice,
}

impl DeviceBuffer {
    pub(crate) fn new(slice: DeviceSlice) -> Self {
        Self { slice }
    }

    /// The whole of it.
    #[must_use]
    pub fn as_slice(&self) -> DeviceSlice {
        self.slice.clone()
    }
}

impl std::ops::Deref for DeviceBuffer {
    type Target = DeviceSlice;

    fn deref(&self) -> &DeviceSlice {
        &self.slice
    }
}

/// Part of a [`DeviceBuffer`]: memory that the GPU and drives reach. Cloning is cheap and keeps the memory.
#[derive(Debug, Clone)]
pub struct DeviceSlice {
    block: Arc<Block>,
    /// Holds the block, too.
    dma: DmaSlice,
    device_address: u64,
}

impl DeviceSlice {
    pub(crate) fn new(block: Block, dma: DmaSlice) -> Self {
        let device_address = block.device_address;
        let block = Arc::new(block);
        let dma = dma.held_with(Arc::clone(&block) as _);
        Self { block, dma, device_address }
    }

    /// The GPU.
    #[must_use]
    pub fn gpu(&self) -> &Arc<Gpu> {
        self.block.pool.gpu()
    }

    /// Address of the first byte for the GPU.
    #[must_use]
    #[inline]
    pub fn device_address(&self) -> u64 {
        self.device_address
    }

    /// Length in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.dma.len()
    }

    /// Whether the length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dma.is_empty()
    }

    /// The same memory as drives reach it. It keeps the memory as this slice does.
    #[must_use]
    #[inline]
    pub fn dma(&self) -> &DmaSlice {
        &self.dma
    }

    /// `len` bytes at `offset` of this slice.
    ///
    /// # Errors
    /// [`GpuError::OutOfBounds`].
    pub fn slice(&self, offset: usize, len: usize) -> Result<Self, GpuError> {
        let device_address = within(self.gpu(), (self.device_address, self.len()), offset, len)?;
        let ordinal = self.gpu().ordinal();
        let dma = self.dma.slice(offset, len);
        let dma = dma.map_err(|source| GpuError::OutOfBounds { ordinal, source })?;
        Ok(Self { block: Arc::clone(&self.block), dma, device_address })
    }

    /// Copies bytes in. Returns when they are there; waits for no work of streams.
    ///
    /// # Errors
    /// [`GpuError::OutOfBounds`], [`GpuError::Cuda`], [`GpuError::TimedOut`].
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) -> Result<(), GpuError> {
        let to = within(self.gpu(), (self.device_address, self.len()), offset, bytes.len())?;
        self.gpu().copy_in(to, bytes)
    }

    /// Copies bytes out. Waits for no work of streams.
    ///
    /// # Errors
    /// [`GpuError::OutOfBounds`], [`GpuError::Cuda`], [`GpuError::TimedOut`].
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) -> Result<(), GpuError> {
        let from = within(self.gpu(), (self.device_address, self.len()), offset, out.len())?;
        self.gpu().copy_out(from, out)
    }
}

impl sealed::Sealed for DeviceSlice {}

impl GpuRange for DeviceSlice {
    fn gpu(&self) -> &Arc<Gpu> {
        self.gpu()
    }

    fn device_address(&self) -> u64 {
        self.device_address
    }

    fn len(&self) -> usize {
        self.dma.len()
    }

    fn hold(&self) -> Option<Hold> {
        Some(Box::new(self.clone()))
    }
}
