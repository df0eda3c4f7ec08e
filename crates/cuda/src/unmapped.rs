use std::sync::Arc;

use crate::gpu::Kind;
#[cfg(feature = "played")]
use crate::played::PlayedMemory;
use crate::range::{Hold, sealed, within};
use crate::vmm::VmmMemory;
use crate::{Gpu, GpuError, GpuRange};

/// GPU memory that only the GPU reaches: nothing is mapped for the CPU or for drives, so it works where there are
/// no windows. Cloning and slicing are cheap and keep the memory.
#[derive(Debug, Clone)]
pub struct UnmappedMemory {
    gpu: Arc<Gpu>,
    memory: Arc<Memory>,
    address: u64,
    len: usize,
}

#[derive(Debug)]
enum Memory {
    Cuda(VmmMemory),
    #[cfg(feature = "played")]
    Played(PlayedMemory),
}

impl UnmappedMemory {
    /// Takes `len` bytes, rounded up to 2 MiB. They hold whatever was there before.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] for a length of 0, [`GpuError::Cuda`] when there is not enough memory.
    pub fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self, GpuError> {
        let memory = match gpu.kind() {
            Kind::Cuda(_) => Memory::Cuda(VmmMemory::new(gpu, len)?),
            #[cfg(feature = "played")]
            Kind::Played(played) => Memory::Played(PlayedMemory::new(played, len)?),
        };
        let (address, len) = match &memory {
            Memory::Cuda(memory) => (memory.address(), memory.len()),
            #[cfg(feature = "played")]
            Memory::Played(memory) => (memory.base().as_ptr() as u64, memory.len()),
        };
        Ok(Self { gpu: Arc::clone(gpu), memory: Arc::new(memory), address, len })
    }

    /// `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`GpuError::OutOfBounds`].
    pub fn slice(&self, offset: usize, len: usize) -> Result<Self, GpuError> {
        let address = within(&self.gpu, (self.address, self.len), offset, len)?;
        Ok(Self { address, len, ..self.clone() })
    }

    /// Copies bytes in. Returns when they are there; waits for no work of streams.
    ///
    /// # Errors
    /// [`GpuError::OutOfBounds`], [`GpuError::Cuda`], [`GpuError::TimedOut`].
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) -> Result<(), GpuError> {
        let to = within(&self.gpu, (self.address, self.len), offset, bytes.len())?;
        self.gpu.copy_in(to, bytes)
    }

    /// Copies bytes out. Waits for no work of streams.
    ///
    /// # Errors
    /// As [`UnmappedMemory::copy_in`].
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) -> Result<(), GpuError> {
        let from = within(&self.gpu, (self.address, self.len), offset, out.len())?;
        self.gpu.copy_out(from, out)
    }
}

impl sealed::Sealed for UnmappedMemory {}

impl GpuRange for UnmappedMemory {
    fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    fn device_address(&self) -> u64 {
        self.address
    }

    fn len(&self) -> usize {
        self.len
    }

    fn hold(&self) -> Option<Hold> {
        Some(Box::new(Arc::clone(&self.memory)))
    }
}
