use std::sync::Arc;

use cudarc::driver::sys;
use gcos_hw::{PAGE_BYTES, SharedMemory};

use crate::vmm::VmmMemory;
use crate::vulkan::CpuMapping;
use crate::{Gpu, GpuError};

/// GPU memory that the GPU, the CPU and, through the memory's mapping, drives reach.
///
/// The CPU's view is uncached reads (about 1 µs for a word) and write-combined stores: fit for polling
/// and for posting small records. Bulk goes through CUDA copies or a drive's transfers.
///
/// Windows are costly to make and take 2 MiB of the GPU's BAR1 at least: make few, large ones. The
/// memory lives until the window and every holder of [`VramWindow::memory`] are gone, DMA mappings and
/// commands in flight included, so it cannot be freed under a drive.
#[derive(Debug)]
pub struct VramWindow {
    inner: Arc<Inner>,
    memory: Arc<SharedMemory>,
}

/// Dropped in this order: the CPU's view, then the memory.
#[derive(Debug)]
struct Inner {
    mapping: CpuMapping,
    vram: VmmMemory,
}

impl VramWindow {
    /// Makes a window of `len` bytes, rounded up to 2 MiB. It holds whatever was there before.
    ///
    /// # Errors
    /// [`GpuError::NoWindow`] where the CPU cannot map GPU memory, with what to do;
    /// [`GpuError::Cuda`] when there is not enough memory.
    pub fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self, GpuError> {
        let ordinal = gpu.ordinal();
        let vram = VmmMemory::new(gpu, len)?;
        let mapping = CpuMapping::new(gpu.uuid(), vram.export()?, vram.len())
            .map_err(|reason| GpuError::NoWindow { ordinal, reason })?;
        let (address, len) = (mapping.address(), vram.len());
        if !(address.as_ptr() as usize).is_multiple_of(PAGE_BYTES) {
            let reason = format!("Vulkan mapped it at {address:p}, expected a whole page");
            return Err(GpuError::NoWindow { ordinal, reason });
        }
        let inner = Arc::new(Inner { mapping, vram });
        // SAFETY: the mapping is of `len` bytes and lives as long as `inner`, which the memory keeps.
        let memory = unsafe { SharedMemory::foreign(address, len, Arc::clone(&inner) as _) }
            .map_err(|source| GpuError::Memory { ordinal, source })?;
        Ok(Self { inner, memory: Arc::new(memory) })
    }

    /// The GPU.
    #[must_use]
    pub fn gpu(&self) -> &Arc<Gpu> {
        self.inner.vram.gpu()
    }

    /// Address of the first byte for the GPU.
    #[must_use]
    pub fn device_address(&self) -> u64 {
        self.inner.vram.address()
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.vram.len()
    }

    /// Whether the length is 0 (it never is).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes in, with the GPU's copy engine. Returns when they are there.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] when the range does not fit, [`GpuError::Cuda`].
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) -> Result<(), GpuError> {
        let to = self.at(offset, bytes.len())?;
        self.gpu().call("cuMemcpyHtoD", || {
            // SAFETY: the range is inside the window's memory; the source is a live slice.
            unsafe { sys::cuMemcpyHtoD_v2(to, bytes.as_ptr().cast(), bytes.len()) }
        })?;
        // From pageable memory the copy returns when the bytes are staged, not when they have arrived.
        // SAFETY: the null stream always exists.
        self.gpu().call("cuStreamSynchronize", || unsafe {
            sys::cuStreamSynchronize(std::ptr::null_mut())
        })
    }

    /// Copies bytes out, with the GPU's copy engine.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] when the range does not fit, [`GpuError::Cuda`].
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) -> Result<(), GpuError> {
        let from = self.at(offset, out.len())?;
        self.gpu().call("cuMemcpyDtoH", || {
            // SAFETY: the range is inside the window's memory; the target is a live, exclusive slice.
            unsafe { sys::cuMemcpyDtoH_v2(out.as_mut_ptr().cast(), from, out.len()) }
        })
    }

    /// Address for the GPU of a range, if it fits.
    fn at(&self, offset: usize, len: usize) -> Result<u64, GpuError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len() => Ok(self.device_address() + offset as u64),
            _ => Err(GpuError::Invalid {
                ordinal: self.gpu().ordinal(),
                what: "range of a VRAM window",
                expected: "a range inside the window",
                got: offset as u64,
            }),
        }
    }

    /// The CPU's view, for [`gcos_hw::DmaSpace::adopt`].
    #[must_use]
    pub fn memory(&self) -> &Arc<SharedMemory> {
        &self.memory
    }

    /// Address of the first byte for the CPU.
    #[must_use]
    pub fn cpu_address(&self) -> usize {
        self.inner.mapping.address().as_ptr() as usize
    }
}
